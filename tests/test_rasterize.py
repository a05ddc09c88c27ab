"""The CPU rasterizer against brute force in float64, and its behaviour at the edges."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
import threading
import types
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import splatting_reference as reference
import torch
from torch import Tensor

from dreamerxl.errors import DeviceError
from dreamerxl.gaussians import rasterize as front
from dreamerxl.gaussians import rasterize_cpu
from dreamerxl.gaussians.rasterize import Render, rasterize
from dreamerxl.gaussians.scene import Splats

NAMES = ("means", "quats", "scales", "opacities", "colors", "background")


def relative(value: Tensor, wanted: Tensor) -> float:
    return float((value.double() - wanted).norm() / wanted.norm())


def draw(scene: list[Tensor], viewmats: Tensor, Ks: Tensor, width: int, height: int, background: Tensor | None) -> Render:
    return rasterize(Splats(*scene), viewmats.float(), Ks.float(), width, height, background)


def leaves(tensors: list[Tensor], dtype: torch.dtype) -> list[Tensor]:
    return [t.to(dtype).clone().requires_grad_(True) for t in tensors]


def compare(scene, viewmats, Ks, width, height, background) -> dict[str, float]:
    """Largest image error, and relative errors of depth and of every gradient, over pixels that are not doubtful."""
    exact, fast = leaves([*scene, background], torch.float64), leaves([*scene, background], torch.float32)
    wanted = reference.draw(*exact[:5], viewmats, Ks, width, height, exact[5])
    render = draw(fast[:5], viewmats, Ks, width, height, fast[5])
    certain = (~wanted.doubtful).double()
    assert certain.mean() > 0.9
    generator = torch.Generator().manual_seed(5)
    pulls = [torch.randn(p.shape, generator=generator, dtype=torch.float64) for p in (wanted.rgb, wanted.depth, wanted.alpha)]
    pulls = [pulls[0] * certain[..., None], pulls[1] * certain, pulls[2] * certain]
    render.info["means2d"].retain_grad()
    torch.autograd.backward([wanted.rgb, wanted.depth, wanted.alpha], pulls)
    torch.autograd.backward([render.rgb, render.depth, render.alpha], [p.float() for p in pulls])
    errors = {
        "rgb": float(((render.rgb.double() - wanted.rgb) * certain[..., None]).detach().abs().max()),
        "alpha": float(((render.alpha.double() - wanted.alpha) * certain).detach().abs().max()),
        "depth": relative((render.depth * certain).detach(), (wanted.depth * certain).detach()),
    }
    for name, value, exactly in zip(NAMES, fast, exact, strict=True):
        errors[f"d {name}"] = relative(value.grad, exactly.grad)
    errors["d means2d"] = relative(render.info["means2d"].grad, torch.stack([m.grad for m in wanted.means2d]))
    assert torch.equal(render.info["radii"].double(), wanted.radii)
    visible = (wanted.radii > 0).all(-1)
    torch.testing.assert_close(
        render.info["means2d"][visible].double(), torch.stack(wanted.means2d)[visible], atol=1e-4, rtol=1e-6
    )
    return errors


def check(errors: dict[str, float]) -> None:
    print({name: f"{error:.1e}" for name, error in errors.items()})
    assert errors["rgb"] < 5e-6 and errors["alpha"] < 5e-6 and errors["depth"] < 5e-6
    assert all(error < 1e-4 for error in errors.values())


@pytest.mark.parametrize("width, height", [(40, 32), (37, 51), (70, 19), (5, 3)])
@pytest.mark.parametrize("cameras", [1, 3])
@pytest.mark.parametrize("seed", [0, 1])
def test_image_and_gradients_match_brute_force(width: int, height: int, cameras: int, seed: int) -> None:
    scene = reference.random_scene(200, seed)
    viewmats, Ks = reference.orbit(cameras, width, height)
    background = torch.rand(cameras, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    check(compare(scene, viewmats, Ks, width, height, background))


@pytest.mark.parametrize(
    "scene, distance, fov_deg",
    [
        (reference.random_scene(120, 2, opacity=(0.9, 1.0)), 3.0, 40.0),  # pixels close early
        (reference.random_scene(300, 3, opacity=(0.0, 0.05)), 3.0, 40.0),  # many below 1/255
        (reference.random_scene(150, 4, thinness=200.0), 2.0, 40.0),  # needles and discs
        (reference.random_scene(150, 5), 1.2, 100.0),  # the camera touches the scene: slopes are clamped
        (reference.random_scene(150, 6), 0.1, 60.0),  # ... and stands in it: half of it is behind
    ],
    ids=["opaque", "faint", "thin", "wide", "inside"],
)
def test_hard_scenes_match_brute_force(scene: list[Tensor], distance: float, fov_deg: float) -> None:
    width, height = 45, 38
    viewmats, Ks = reference.orbit(2, width, height, distance, fov_deg)
    check(compare(scene, viewmats, Ks, width, height, torch.full((2, 3), 0.3, dtype=torch.float64)))


def test_reference_matches_finite_differences() -> None:
    """Large faint Gaussians: no pixel is near a threshold, so the reference is smooth and can be differentiated."""
    scene = reference.random_scene(4, 7, opacity=(0.4, 0.6))
    scene[2] = scene[2] + 0.6
    viewmats, Ks = reference.orbit(1, 6, 5)

    def picture(*tensors: Tensor) -> tuple[Tensor, ...]:
        drawn = reference.draw(*tensors[:5], viewmats, Ks, 6, 5, tensors[5])
        return drawn.rgb, drawn.depth, drawn.alpha

    inputs = leaves([*scene, torch.full((1, 3), 0.2)], torch.float64)
    assert torch.autograd.gradcheck(picture, inputs, eps=1e-6, atol=1e-6)


def test_no_background_is_black() -> None:
    viewmats, Ks = reference.orbit(3, 30, 20)
    scene = [t.float() for t in reference.random_scene(50, 0)]
    black = draw(scene, viewmats, Ks, 30, 20, torch.zeros(3, 3))
    none = draw(scene, viewmats, Ks, 30, 20, None)
    assert torch.equal(black.rgb, none.rgb) and none.rgb.shape == (3, 20, 30, 3)
    assert none.depth.shape == none.alpha.shape == (3, 20, 30)


def test_each_camera_draws_what_it_draws_alone() -> None:
    viewmats, Ks = reference.orbit(3, 33, 27)
    scene = [t.float() for t in reference.random_scene(100, 0)]
    together = draw(scene, viewmats, Ks, 33, 27, None)
    for n in range(3):
        alone = draw(scene, viewmats[n : n + 1], Ks[n : n + 1], 33, 27, None)
        assert torch.equal(together.rgb[n], alone.rgb[0]) and torch.equal(together.depth[n], alone.depth[0])


def edge_scenes() -> dict[str, list[Tensor]]:
    scene = [t.float() for t in reference.random_scene(60, 0)]
    means, quats, scales, opacities, colors = scene
    poisoned = [t.clone() for t in scene]
    poisoned[0][0], poisoned[0][1], poisoned[2][2], poisoned[3][3] = torch.nan, torch.inf, torch.inf, torch.nan
    poisoned[2][4], poisoned[1][5], poisoned[2][6] = 0, 0, 1e18
    return {
        "empty": [t[:0] for t in scene],
        "hidden": [means + torch.tensor([300.0, 0, 0]), quats, scales, opacities, colors],
        "transparent": [means, quats, scales, opacities * 0, colors],
        "points": [means, quats, scales * 0, opacities, colors],
        "at the camera": [means * 0 + torch.tensor([2.75, 1.15, 0.9]), quats, scales, opacities, colors],
        "huge": [means, quats, scales * 1e4, opacities, colors],
        "far": [means * 1e6, quats, scales, opacities, colors],
        "not finite": poisoned,
    }


@pytest.mark.parametrize("name", edge_scenes())
@pytest.mark.parametrize("cameras", [1, 3])
def test_edge_scenes_stay_finite(name: str, cameras: int) -> None:
    scene = leaves(edge_scenes()[name], torch.float32)
    viewmats, Ks = reference.orbit(cameras, 21, 13)
    render = draw(scene, viewmats, Ks, 21, 13, torch.full((cameras, 3), 0.5))
    render.info["means2d"].retain_grad()
    (render.rgb.sum() + render.depth.sum() + (render.alpha**2).sum()).backward()
    tensors = [render.rgb, render.depth, render.alpha, render.info["means2d"].grad, *(t.grad for t in scene)]
    assert all(torch.isfinite(t).all() for t in tensors)
    if name in ("empty", "hidden", "transparent"):
        assert torch.all(render.alpha == 0) and torch.all(render.depth == 0) and torch.all(render.rgb == 0.5)
        assert all(torch.all(t.grad == 0) for t in scene)


def everything(scene: list[Tensor], viewmats: Tensor, Ks: Tensor) -> list[Tensor]:
    tensors = leaves(scene, torch.float32)
    render = draw(tensors, viewmats, Ks, 90, 70, torch.ones(len(viewmats), 3))
    (render.rgb.square().sum() + render.depth.sum() + render.alpha.sum()).backward()
    return [render.rgb, render.depth, render.alpha, *(t.grad for t in tensors)]


def test_same_bits_from_run_to_run_and_for_any_number_of_threads() -> None:
    scene = reference.random_scene(4000, 0)
    viewmats, Ks = reference.orbit(2, 90, 70)
    threads = torch.get_num_threads()
    try:
        results = []
        for count in (1, 1, 2, 3, 4):
            torch.set_num_threads(count)
            results.append(everything(scene, viewmats, Ks))
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(a, b) for result in results[1:] for a, b in zip(results[0], result, strict=True))


def test_several_python_threads_may_draw_at_once() -> None:
    viewmats, Ks = reference.orbit(2, 90, 70)
    scenes = [reference.random_scene(2000, seed) for seed in range(4)]
    wanted = [everything(scene, viewmats, Ks) for scene in scenes]
    found: dict[int, list[Tensor]] = {}

    def work(n: int) -> None:
        torch.set_num_threads(3)  # of this thread's kernels; the pool behind them is shared
        for _ in range(3):
            found[n] = everything(scenes[n], viewmats, Ks)

    workers = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert all(torch.equal(a, b) for n in range(4) for a, b in zip(wanted[n], found[n], strict=True))


@pytest.mark.parametrize("pool", ["busy", "closed"])
def test_the_caller_can_do_without_helpers(pool: str, monkeypatch: pytest.MonkeyPatch) -> None:
    scene = reference.random_scene(2000, 0)
    viewmats, Ks = reference.orbit(2, 90, 70)
    wanted = everything(scene, viewmats, Ks)
    occupied, release = ThreadPoolExecutor(1), threading.Event()
    occupied.submit(release.wait)
    if pool == "closed":
        release.set()
        occupied.shutdown()
    monkeypatch.setattr(rasterize_cpu, "_pool", occupied)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    try:
        assert all(torch.equal(a, b) for a, b in zip(wanted, everything(scene, viewmats, Ks), strict=True))
    finally:
        release.set()
        occupied.shutdown()


def test_equal_depths_are_drawn_in_index_order() -> None:
    means = torch.zeros(2, 3)
    quats, scales = torch.tensor([[1.0, 0, 0, 0]]).expand(2, 4), torch.full((2, 3), 0.5)
    colors = torch.tensor([[1.0, 0, 0], [0, 1.0, 0]])
    viewmats, Ks = reference.orbit(1, 9, 9)
    render = draw([means, quats, scales, torch.full((2,), 0.9), colors], viewmats, Ks, 9, 9, None)
    red, green, _ = render.rgb[0, 4, 4]
    assert red > 0.8 and 0 < green < 0.15


def test_rendering_without_gradients() -> None:
    viewmats, Ks = reference.orbit(1, 16, 16)
    with torch.no_grad():
        render = draw(leaves(reference.random_scene(30, 0), torch.float32), viewmats, Ks, 16, 16, None)
    assert not render.rgb.requires_grad and not render.info["means2d"].requires_grad


def test_one_specialisation_of_every_kernel() -> None:
    """Another layout or type would compile for seconds in the middle of a run."""
    rasterize_cpu.warm_up()
    scene = [t.float() for t in reference.random_scene(30, 0)]
    for cameras in (1, 2):
        viewmats, Ks = reference.orbit(cameras, 16, 16)
        copies = [t[:1].expand(30, *t.shape[1:]) for t in scene]
        for part in (scene, [t[:0] for t in scene], [t[:1] for t in scene], copies):
            rgb = draw(leaves(part, torch.float32), viewmats, Ks, np.int64(16), 16, None).rgb
            rgb.sum().backward()
    for kernel in ("project", "unproject", "tabulate", "list_pairs", "blend", "unblend", "gather"):
        assert len(getattr(rasterize_cpu, kernel).signatures) == 1, kernel


def test_kernels_compile_where_no_cache_can_be_written(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_locator(*args, cache: bool = False, **options):
        if cache:
            raise RuntimeError("cannot cache function: no locator available")
        return lambda function: ("compiled", function)

    monkeypatch.setattr(rasterize_cpu, "njit", no_locator)
    assert rasterize_cpu.kernel(len) == ("compiled", len)


@pytest.mark.parametrize(
    "name, value, message",
    [
        ("quats", torch.zeros(30, 3), r"quats has shape \[30, 3\]; \[30, 4\] is accepted"),
        ("colors", torch.zeros(1, 3), r"colors has shape \[1, 3\]"),
        ("scales", torch.zeros(30, 3, dtype=torch.float64), "scales is torch.float64 on cpu; torch.float32 on cpu is accepted"),
    ],
)
def test_wrong_shapes_and_types_are_named(name: str, value: Tensor, message: str) -> None:
    fields = dict(zip(NAMES, [t.float() for t in reference.random_scene(30, 0)], strict=False))
    viewmats, Ks = reference.orbit(1, 16, 16)
    with pytest.raises(ValueError, match=message):
        rasterize(Splats(**{**fields, name: value}), viewmats.float(), Ks.float(), 16, 16)
    with pytest.raises(ValueError, match="1 cameras of 0x16 pixels"):
        rasterize(Splats(**fields), viewmats.float(), Ks.float(), 0, 16)


def test_missing_cuda_toolkit_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    import gsplat.cuda

    backend = types.ModuleType("gsplat.cuda._backend")
    monkeypatch.setitem(sys.modules, "gsplat.cuda._backend", backend)
    monkeypatch.setattr(gsplat.cuda, "_backend", backend, raising=False)
    backend._C = None
    with pytest.raises(DeviceError, match="finds no CUDA toolkit"):
        front._gsplat()
    monkeypatch.setitem(sys.modules, "gsplat.cuda._backend", None)  # the import itself fails
    monkeypatch.delattr(gsplat.cuda, "_backend")
    with pytest.raises(DeviceError, match="cannot be built"):
        front._gsplat()


def test_processes_that_start_together_build_gsplat_one_after_another(tmp_path: Path) -> None:
    """A gsplat that takes its time to be imported, and says when: no two of the times meet."""
    (tmp_path / "gsplat" / "cuda").mkdir(parents=True)
    (tmp_path / "gsplat" / "__init__.py").write_text("rasterization = None\n")
    (tmp_path / "gsplat" / "cuda" / "__init__.py").touch()
    slow = "import time; begun = time.time(); time.sleep(0.7); print(begun, time.time()); _C = 1\n"
    (tmp_path / "gsplat" / "cuda" / "_backend.py").write_text(slow)
    command = [sys.executable, "-c", "from dreamerxl.gaussians.rasterize import _gsplat; _gsplat()"]
    path = os.pathsep.join([str(tmp_path), str(Path(front.__file__).parents[2])])
    environment = os.environ | {"PYTHONPATH": path, "TORCH_EXTENSIONS_DIR": str(tmp_path / "built")}
    together = [subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    times = sorted(tuple(map(float, process.communicate(timeout=120)[0].split())) for process in together)
    assert all(process.returncode == 0 for process in together)
    assert all(ended <= begun for (_, ended), (begun, _) in itertools.pairwise(times))
