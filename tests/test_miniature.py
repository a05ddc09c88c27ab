"""The embedded model's world: its objects are what they claim, its data is deterministic, its training runs end to end."""

import math

import pytest
import torch

from dreamerxl.cameras import cameras_at
from dreamerxl.miniature import data, shapes
from dreamerxl.miniature.data import Renders, draw_batch
from dreamerxl.miniature.language import COLORS, MAX_TOKENS, NOUNS, PHRASES, VIEWS, describe, make_tokenizer, vocabulary
from dreamerxl.miniature.objects import OBJECTS, Jitter
from dreamerxl.miniature.render import distance, render

CPU = torch.device("cpu")


def ball_points(count: int, radius: float, seed: int = 0) -> shapes.Point:
    generator = torch.Generator().manual_seed(seed)
    p = (torch.rand(3, 1, count, generator=generator) * 2 - 1) * radius
    return p[0], p[1], p[2]


def build(name: str, batch: int = 1, seed: int = 0) -> list:
    return OBJECTS[name](torch.full((batch, 3), 0.5), Jitter(batch, torch.Generator().manual_seed(seed), CPU))


@pytest.mark.parametrize("name", list(OBJECTS))
def test_objects_lie_within_the_unit_ball_and_their_distance_can_be_marched(name):
    parts = build(name, batch=3)
    p = ball_points(20_000, 1.3)
    d = distance(parts, tuple(v.expand(3, -1) for v in p))
    radius = torch.sqrt(p[0] ** 2 + p[1] ** 2 + p[2] ** 2).expand(3, -1)
    assert (d < 0).any(), "the object is empty"
    assert radius[d < 0].max() < 1.05
    e = 1e-3  # a marched distance may be short but must not grow faster than the way that is walked
    moved = distance(parts, tuple(v.expand(3, -1) for v in (p[0] + e, p[1], p[2])))
    outside = d > 0.02
    assert ((moved - d).abs() / e)[outside].quantile(0.999) < 1.35


def test_a_sphere_is_drawn_where_projection_puts_it():
    parts = [build("snowman")[0]._replace(distance=lambda p: shapes.sphere(p, (0, 0, 0), 0.5))]
    cameras = cameras_at(torch.tensor([30.0]), torch.tensor([20.0]), torch.tensor([4.0]), torch.tensor([34.4]), 96, 64)
    image, depth = render(parts, cameras, torch.ones(1, 3), supersample=1)
    covered = ((image[0] - 1).abs().sum(0) > 1e-3).sum().item()
    radius = 0.5
    focal = 32 / math.tan(math.radians(17.2))
    expected = math.pi * (focal * radius / math.sqrt(4.0**2 - radius**2)) ** 2  # the silhouette of a ball is a disc on the axis
    assert image.shape == (1, 3, 64, 96) and abs(covered / expected - 1) < 0.03
    assert depth[0, 0, 32, 48] > 0.99 and depth[0, 0, 0, 0] == 0  # nearest in the middle, background zero


def test_sides_differ_where_an_object_has_a_face():
    camera = cameras_at(torch.tensor([0.0, 180.0]), torch.zeros(2), torch.full((2,), 4.0), torch.full((2,), 34.4), 64, 64)
    for name in ("snowman", "chair", "bear", "rocket", "house", "duck"):
        image, _ = render(build(name, batch=2), camera, torch.ones(2, 3), supersample=1)
        front, back = image[0], image[1].flip(-1)
        assert (front - back).abs().mean() > 0.004, name


def test_batches_are_the_same_from_the_same_seed_and_differ_otherwise(monkeypatch):
    monkeypatch.setattr(data, "BATCH", 3)
    first, again = draw_batch("duck", 1, 0, CPU), draw_batch("duck", 1, 0, CPU)
    other = draw_batch("duck", 2, 0, CPU)
    for name in Renders.__dataclass_fields__:
        assert torch.equal(getattr(first, name), getattr(again, name))
    assert not torch.equal(first.images, other.images)
    assert first.images.shape == (3, 3, 128, 128) and first.depths.shape == (3, 1, 128, 128)
    assert torch.allclose(first.views.sum(1), torch.ones(3))


def test_every_training_prompt_is_known_and_fits():
    tokenizer = make_tokenizer()
    assert vocabulary() == sorted(set(vocabulary()))
    for name, nouns in NOUNS.items():
        for noun in range(len(nouns)):
            for phrase in PHRASES:
                for color in (*COLORS, None):
                    ids = tokenizer(f"{describe(name, color, phrase, noun)}, {VIEWS[1]}, depth map").input_ids
                    assert tokenizer.unk_token_id not in ids and len(ids) <= MAX_TOKENS


def test_tokens_ignore_case_and_punctuation_and_name_unknown_words():
    tokenizer = make_tokenizer()
    assert tokenizer("A Red, DUCK!").input_ids == tokenizer("a red duck").input_ids
    ids = tokenizer("a red zebra").input_ids
    assert ids.count(tokenizer.unk_token_id) == 1 and ids[-1] == tokenizer.eos_token_id


def test_articles_fit():
    assert describe("cactus", "orange") == "a DSLR photo of an orange cactus"
    assert describe("bear", None, PHRASES[0], noun=1) == "a bear"


def test_a_training_runs_end_to_end_and_leaves_a_folder_that_diffusers_loads(tmp_path, monkeypatch):
    from diffusers import StableDiffusionPipeline

    from dreamerxl.miniature import train

    monkeypatch.setattr(data, "BATCH", 4)

    def draw(count, seed, device):
        batches = [draw_batch(name, 0, seed, CPU) for name in ("duck", "chair")]
        return Renders(*(torch.cat([getattr(b, name) for b in batches]) for name in Renders.__dataclass_fields__))

    monkeypatch.setattr(train, "draw", draw)
    recipe = train.Recipe(vae_steps=2, vae_batch=2, unet_steps=8, unet_batch=2, unet_lr=0.5)
    train.train(recipe, tmp_path / "first", device="cpu")
    train.train(recipe, tmp_path / "second", start=tmp_path / "first", train_vae_too=False, device="cpu")
    pipeline = StableDiffusionPipeline.from_pretrained(tmp_path / "second", torch_dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    picture = pipeline(["a red duck"], num_inference_steps=2, output_type="pt").images
    assert picture.shape == (1, 3, 128, 128) and torch.isfinite(picture).all()
    first = StableDiffusionPipeline.from_pretrained(tmp_path / "first", torch_dtype=torch.float32)
    assert torch.equal(first.vae.encoder.conv_in.weight, pipeline.vae.encoder.conv_in.weight)
    assert not torch.equal(first.unet.conv_in.weight, pipeline.unet.conv_in.weight)
