"""Links restore every setting and can ask for nothing that is not a visitor's to say."""

from __future__ import annotations

from urllib.parse import parse_qsl

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dreamerxl.config import Settings, Variant, load_preset, preset_names
from dreamerxl.errors import SettingsError
from dreamerxl.web.share import harmless, query_of, settings_of_link


def there_and_back(settings: Settings) -> Settings | None:
    return settings_of_link(dict(parse_qsl(query_of(settings), keep_blank_values=True)))


@pytest.mark.parametrize("name", ["", *preset_names()])
def test_a_preset_is_a_short_link(name: str):
    settings = load_preset(name) if name else Settings()
    assert there_and_back(settings) == settings
    assert len(query_of(settings)) < 60


@settings(deadline=None)
@given(
    st.text(max_size=200), st.floats(0, 1), st.integers(1, 999), st.none() | st.floats(1e-6, 1.0), st.integers(1, 4),
    st.sampled_from(["", *preset_names()]),
)  # fmt: skip
def test_every_setting_comes_back(prompt: str, gamma: float, delta_t: int, clip: float | None, sides: int, preset: str):
    base = load_preset(preset) if preset else Settings()
    variants = [vars(Variant("tsm", gamma=gamma / (1 + k), delta_t=delta_t, clip_color=clip)) for k in range(sides)]
    settings = base.override({"prompt": prompt, "variants": variants, "losses.tv_depth": gamma, "prompting.front": prompt[:9]})
    assert there_and_back(settings) == settings


def test_prompts_that_look_like_values_stay_text():
    for prompt in ("3", "true", "null", '"x"', "[1]", "a=b&seed=9"):
        assert there_and_back(Settings(prompt=prompt)).prompt == prompt  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ({"preset": "nothing"}, "no preset"),
        ({"preset": "", "variants.0.gamma": "7"}, "gamma is 7"),
        ({"preset": "", "variants.9.gamma": "0.5"}, "variants.9"),
        ({"preset": "", "no.such": "1"}, "not a setting"),
        ({"preset": "", "sides": "99"}, "1 to 4"),
        ({"preset": "", "sides": "-1"}, "1 to 4"),
        ({"preset": "", "prompt": '"' + "x" * 20_000 + '"'}, "longer than"),
        ({"preset": "", "views.batch": "[" * 9000}, "views.batch"),
    ],
)
def test_what_does_not_fit_is_told(query: dict[str, str], words: str):
    with pytest.raises(SettingsError, match=words):
        settings_of_link(query)


def test_an_address_without_a_preset_asks_for_nothing():
    assert settings_of_link({}) is None
    assert settings_of_link({"run": "20261122-142501-a3f9c1", "__theme": "dark"}) is None
    assert settings_of_link({"preset": "", "__theme": "dark", "utm": "x"}) == Settings()


def test_no_link_names_a_file_of_this_machine():
    query = {"preset": "", "initialization.shape": '"file"', "initialization.file": '"/etc/passwd"'}
    found = settings_of_link(query)
    assert found is not None and (found.initialization.file, found.initialization.shape) == ("", "ball")
    assert harmless(Settings(prompt="x")) == Settings(prompt="x")
    assert harmless(Settings(model="/root/weights")).model == "auto"
    assert harmless(Settings(model="a/model"), ("a/model",)).model == "a/model"
