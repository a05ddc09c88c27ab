"""Settings, presets and what is said about bad input."""

from __future__ import annotations

import dataclasses
import json
import math

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from dreamerxl import config
from dreamerxl.config import (
    Settings,
    Variant,
    leaf_fields,
    load_preset,
    load_settings,
    parse_value,
    preset_names,
)
from dreamerxl.errors import SettingsError
from dreamerxl.runs.manager import check_runnable


def refusal(changes: dict) -> str:
    with pytest.raises(SettingsError) as caught:
        Settings().override(changes)
    return str(caught.value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("variants.1.gamma", -0.01),
        ("variants.1.gamma", 1.01),
        ("variants.0.delta_t", 0),
        ("variants.0.delta_t", 1000),
        ("variants.0.delta_s", 0),
        ("variants.0.delta_s", 1000),
        ("variants.0.delta_s", -200),
        ("variants.0.clip_color", 0),
        ("variants.0.clip_color", -0.05),
        ("variants.0.clip_depth", 0.0),
        ("variants.0.clip_depth", -1),
        ("variants.0.guidance_scale", -1),
        ("iterations", 0),
        ("iterations", 1_000_001),
        ("initialization.count", 9),
        ("initialization.count", 5_000_001),
        ("densification.max_count", 0),
        ("views.batch", 0),
        ("views.resolution", 31),
        ("seed", -1),
        ("seed", 2**31),
    ],
)
def test_values_out_of_range_are_refused_with_field_value_and_range(name, value):
    sentence = refusal({name: value})
    item = dict(leaf_fields())[".".join(part for part in name.split(".") if not part.isdecimal())]
    assert sentence.startswith(f"{name} is {value:g};")
    assert f"{item.metadata['low']:g} to {item.metadata['high']:g}" in sentence
    assert sentence.endswith(".")


@pytest.mark.parametrize("name", ["variants.0.gamma", "variants.0.clip_color", "optimization.lr_means", "iterations", "seed"])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, "nan", "inf"])
def test_nan_and_infinity_are_refused(name, value):
    sentence = refusal({name: value})
    assert name in sentence
    assert "accepted" in sentence or "not a number" in sentence


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"iterations": "many"}, "iterations is 'many'; a whole number is accepted."),
        ({"iterations": 2.5}, "iterations is 2.5; a whole number is accepted."),
        ({"iterations": True}, "iterations is True; a whole number is accepted."),
        ({"iterations": None}, "iterations is None; a whole number is accepted."),
        ({"iterations": [400]}, "iterations is [400]; a whole number is accepted."),
        ({"prompt": 3}, "prompt is 3; text is accepted."),
        ({"densification.enabled": 1}, "densification.enabled is 1; true or false is accepted."),
        ({"variants.0.method": "tsn"}, "variants.0.method is 'tsn'; accepted: sds, csd, ism, tsm, vsd."),
        ({"variants.0.clip_color": True}, "variants.0.clip_color is True; a number is accepted."),
        ({"variants": {"method": "ism"}}, "variants is {'method': 'ism'}; a list is accepted."),
        ({"variants": [3]}, "variants.0 is 3; a group of settings (name: value) is accepted."),
        ({"variants": []}, "variants has 0 entries; 1 to 4 are accepted."),
        ({"variants": [{}] * 5}, "variants has 5 entries; 1 to 4 are accepted."),
        ({"views": 4}, "views is 4; a group of settings (name: value) is accepted."),
    ],
)
def test_wrong_types_are_refused(changes, sentence):
    assert refusal(changes) == sentence


@pytest.mark.parametrize(
    ("key", "near"),
    [
        ("iteration", "iterations"),
        ("views.resoluton", "views.resolution"),
        ("variants.1.gama", "variants.1.gamma"),
        ("variants.delta", "variants.delta_t"),
        ("batch", "views.batch"),
        ("gamma", "variants.gamma"),
    ],
)
def test_an_unknown_key_is_refused_and_the_nearest_offered(key, near):
    assert refusal({key: 1}) == f"{key} is not a setting (did you mean {near}?)."


@pytest.mark.parametrize("side", [None, 3, "gamma", [1]])
def test_a_change_of_what_is_no_table_is_refused(side):
    with pytest.raises(SettingsError, match=r"variants\.0\.gamma"):
        Settings().override({"variants": [side], "variants.0.gamma": 0.5})


def test_an_unknown_key_in_nested_values_is_refused_with_its_path():
    with pytest.raises(SettingsError, match=r"^views\.radus_min is not a setting \(did you mean radius_min\?\)\.$"):
        Settings.from_dict({"views": {"radus_min": 3}})
    with pytest.raises(SettingsError, match=r"^variants\.1\.gama is not a setting"):
        Settings.from_dict({"variants": [{}, {"gama": 0.5}]})


@pytest.mark.parametrize(
    ("changes", "names"),
    [
        ({"views.radius_min": 6.0}, ("views.radius_min", "views.radius_max")),
        ({"views.fovy_max_deg": 2.0}, ("views.fovy_min_deg", "views.fovy_max_deg")),
        ({"timesteps.t_min": 600}, ("t_min", "t_max")),
        ({"initialization.shape": "file"}, ("initialization.file",)),
        ({"variants.7.gamma": 0.5}, ("variants.7.gamma", "2 side(s)")),
        ({"variants.1": 0.5}, ("variants.1.gamma",)),
        ({"seed.x": 1}, ("seed.x", "no parts")),
    ],
)
def test_settings_that_do_not_fit_each_other_are_refused(changes, names):
    sentence = refusal(changes)
    assert all(name in sentence for name in names)


@pytest.mark.parametrize("name", ["prompt", "prompting.negative_prompt", "model"])
def test_long_texts_are_refused_without_being_repeated(name):
    sentence = refusal({name: "x" * 1_000_000})
    assert sentence == f"{name} has 1,000,000 characters; at most 1,000 are accepted."
    assert Settings().override({name: "x" * 1000})


@pytest.mark.parametrize("value", [10**400, -(10**30), 1 << 20_000], ids=["400 digits", "31 digits", "unprintable"])
@pytest.mark.parametrize("name", ["seed", "losses.scale", "variants.0.clip_color"])
def test_huge_whole_numbers_are_refused(name, value):
    sentence = refusal({name: value})
    assert sentence.startswith(f"{name} is ")
    assert len(sentence) < 200


@pytest.mark.parametrize("prompt", ["", "   ", "\n\t"])
def test_an_empty_prompt_is_refused_where_a_run_is_asked_for(prompt):
    with pytest.raises(SettingsError, match="prompt is empty"):
        check_runnable(Settings(prompt=prompt))
    check_runnable(Settings(prompt="a chair"))


def test_off_turns_a_threshold_off_and_text_numbers_are_read():
    settings = Settings().override({"variants.clip_color": parse_value("off"), "variants.1.gamma": parse_value("1e-1")})
    assert [variant.clip_color for variant in settings.variants] == [None, None]
    assert [variant.gamma for variant in settings.variants] == [0.3, 0.1]


@given(st.text(max_size=30))
def test_whatever_is_typed_as_a_value_is_read_or_stays_text(text):
    parse_value(text)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["prompt", "views", "x"]), inner, max_size=3),
        max_leaves=6,
    )
)
def test_any_plain_value_is_settings_or_a_sentence(values):
    try:
        assert isinstance(Settings.from_dict(values), Settings)
    except SettingsError as error:
        assert str(error).endswith(".")
        assert len(str(error)) < 300


def test_settings_go_to_json_and_back():
    settings = Settings(
        prompt="a bagel", variants=(Variant("tsm", gamma=0.1, clip_color=None), Variant("sds"), Variant("csd", delta_t=7))
    )
    assert Settings.from_dict(json.loads(json.dumps(settings.to_dict()))) == settings


def test_settings_are_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Settings().seed = 3  # type: ignore[misc]


def test_every_setting_has_help_and_numbers_have_ranges():
    for name, item in leaf_fields():
        assert item.metadata["help"], name
        if isinstance(item.default, (int, float)) and not isinstance(item.default, bool):
            assert item.metadata["low"] is not None, name
            assert item.metadata["high"] is not None, name


@pytest.mark.parametrize("name", preset_names())
def test_every_preset_loads_and_survives_yaml(name):
    settings = load_preset(name)
    check_runnable(settings)
    assert settings.description
    assert Settings.from_dict(yaml.safe_load(yaml.safe_dump(settings.to_dict()))) == settings


@pytest.fixture
def presets(tmp_path, monkeypatch):
    monkeypatch.setattr(config, "PRESETS", tmp_path)
    return tmp_path


def test_a_preset_may_extend_another(presets):
    (presets / "base.yaml").write_text("prompt: a cat\nviews: {batch: 2, resolution: 128}\n")
    (presets / "more.yaml").write_text("extends: base\nviews: {batch: 3}\n")
    settings = load_preset("more")
    assert (settings.prompt, settings.views.batch, settings.views.resolution) == ("a cat", 3, 128)
    assert preset_names() == ["base", "more"]


def test_an_unknown_preset_is_refused_with_the_nearest_and_all_names(presets):
    (presets / "bagel.yaml").write_text("prompt: a bagel\n")
    (presets / "dog.yaml").write_text("prompt: a dog\n")
    with pytest.raises(SettingsError) as caught:
        load_preset("bagle")
    assert str(caught.value) == "There is no preset 'bagle' (did you mean bagel?); presets: bagel, dog."
    with pytest.raises(SettingsError, match="There is no preset"):
        load_preset("../bagel")


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("promt: a cat", "promt is not a setting (did you mean prompt?)."),
        ("views: {batch: two}", "views.batch is 'two'; a whole number is accepted."),
        ("- a\n- b", "The settings file bad.yaml holds ['a', 'b']"),
        ("just text", "The settings file bad.yaml holds 'just text'"),
        ("prompt: [a, b", "is not plain YAML"),
        ("prompt: !!python/object/apply:os.system ['echo hacked']", "is not plain YAML"),
        ("!!python/object:dreamerxl.config.Settings {}", "is not plain YAML"),
        ("extends: bad", "Preset bad extends itself"),
        ("extends: nowhere", "There is no preset 'nowhere'"),
        ("extends: [bad]", "There is no preset ['bad']"),
        ("extends: list", "The settings file list.yaml holds"),
        ("prompt: \x00", "is not plain YAML"),
        ("1: 2", "1 is not a setting"),
        ("prompt: " + "[" * 3000, "is not plain YAML"),
        ("seed: " + "9" * 5000, "is not plain YAML"),
        ("# " + "x" * 1_000_001, "larger than 1,000,000 bytes"),
        (f"prompt: {'x' * 999_000}", "prompt has 999,000 characters"),
    ],
    ids=lambda text: text[:20].replace("\x00", "NUL"),
)
def test_bad_presets_are_refused(presets, text, part):
    (presets / "list.yaml").write_text("[1, 2]")
    (presets / "bad.yaml").write_text(text)
    with pytest.raises(SettingsError) as caught:
        load_preset("bad")
    assert part in str(caught.value)
    assert "hacked" not in str(caught.value)


def test_a_file_that_unfolds_to_billions_is_refused_at_once(presets):
    lines = ["a: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"b{i}: &a{i + 1} [{', '.join([f'*a{i}'] * 9)}]" for i in range(12)]
    (presets / "bomb.yaml").write_text("\n".join([*lines, "prompt: *a12"]))
    with pytest.raises(SettingsError):
        load_preset("bomb")
    (presets / "bomb.yaml").write_text("views:\n  " + "\n  ".join(lines) + "\nprompt: cat")
    with pytest.raises(SettingsError):
        load_preset("bomb")


def test_settings_files_that_cannot_be_read(tmp_path):
    with pytest.raises(SettingsError, match=r"missing\.yaml cannot be read"):
        load_settings(tmp_path / "missing.yaml")
    (tmp_path / "latin.yaml").write_bytes(b"prompt: caf\xe9")
    with pytest.raises(SettingsError, match=r"cannot be read|not plain YAML"):
        load_settings(tmp_path / "latin.yaml")
    with pytest.raises(SettingsError, match="cannot be read"):
        load_settings(tmp_path)
