import tomllib
from dataclasses import asdict, dataclass, field
from typing import Literal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medl_scale.config import MODELS, PrepareConfig, RunConfig
from medl_scale.errors import ConfigError
from medl_scale.settings import build, merge, read_sections, read_toml, to_toml


@dataclass(frozen=True)
class Inner:
    size: int = 3
    share: float = 0.5
    note: str | None = None
    n: int | Literal["auto"] = "auto"


@dataclass(frozen=True)
class Outer:
    name: str
    mode: Literal["a", "b"] = "a"
    widths: tuple[int, ...] = (1, 2)
    is_on: bool = False
    inner: Inner = field(default_factory=Inner)


def test_nested_values_become_checked_dataclasses():
    values = {"name": "x", "widths": [4, 5], "inner": {"size": 7, "share": 1, "note": "n"}}
    built = build(Outer, values, place="outer")
    assert built == Outer("x", "a", (4, 5), is_on=False, inner=Inner(7, 1.0, "n"))
    assert type(built.inner.share) is float


def test_a_word_may_stand_in_place_of_a_number():
    assert build(Inner, {"n": "auto"}, place="inner") == build(Inner, {}, place="inner")
    assert build(Inner, {"n": 2}, place="inner").n == 2


def test_numbers_of_numpy_are_numbers():
    built = build(Inner, {"size": np.int64(4), "share": np.float32(0.25)}, place="inner")
    assert built == Inner(4, 0.25)
    assert (type(built.size), type(built.share)) == (int, float)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"nam": "x"},
            r"'nam' is not a setting of \[outer\]\. Did you mean 'name'\? Settings: name, m",
        ),
        ({}, r"\[outer\] lacks a setting: .*'name'"),
        ({"name": 3}, r"outer\.name must be of type str; got 3\."),
        ({"name": "x", "widths": 3}, r"outer\.widths must be of type list; got 3\."),
        ({"name": "x", "widths": ["3"]}, r"outer\.widths must be of type int; got '3'\."),
        ({"name": "x", "is_on": 1}, r"outer\.is_on must be of type bool; got 1\."),
        ({"name": "x", "mode": 1}, r"outer\.mode must be of type str; got 1\."),
        ({"name": "x", "inner": {"size": True}}, r"inner\.size must be of type int; got True\."),
        ({"name": "x", "inner": {"size": 3.0}}, r"inner\.size must be of type int; got 3\.0\."),
        (
            {"name": "x", "inner": {"share": True}},
            r"inner\.share must be of type float; got True\.",
        ),
        (
            {"name": "x", "inner": {"n": "two"}},
            r"inner\.n must be of type int or 'auto'; got 'two'\.",
        ),
        ({"name": "x", "inner": 3}, r"\[inner\] must be a section of settings; got 3\."),
    ],
)
def test_what_does_not_fit_is_named(values, message):
    with pytest.raises(ConfigError, match=message):
        build(Outer, values, place="outer")


def test_merging_lays_given_values_on_top_section_by_section():
    base = {"a": 1, "inner": {"size": 1, "share": 0.1}}
    over = {"a": None, "b": 2, "inner": {"size": 5, "share": None}, "more": {"x": None}}
    assert merge(base, over) == {"a": 1, "b": 2, "inner": {"size": 5, "share": 0.1}, "more": {}}
    assert base == {"a": 1, "inner": {"size": 1, "share": 0.1}}
    assert merge({"inner": 3}, {"inner": {"size": 5}}) == {"inner": 3}


@settings(deadline=None)
@given(
    models=st.lists(st.sampled_from(MODELS), min_size=1, unique=True),
    folds=st.lists(st.integers(0, 20), min_size=1, unique=True),
    hidden=st.lists(st.integers(1, 999), min_size=1, max_size=4),
    rate=st.none() | st.floats(1e-12, 10),
    threads=st.none() | st.integers(1, 99),
)
def test_settings_of_a_run_survive_the_way_through_a_file(models, folds, hidden, rate, threads):
    values = {
        "models": models,
        "folds": folds,
        "model": {"hidden": hidden},
        "train": {"learning_rate": rate, "threads": threads},
    }
    config = build(RunConfig, values, place="fit")
    assert build(RunConfig, tomllib.loads(to_toml(fit=config))["fit"], place="fit") == config


def test_settings_of_prepare_survive_the_way_through_a_file():
    config = PrepareConfig(batch_key="don\"or'\n", labels_key="ü", n_top_genes=7, target_sum=1e6)
    assert PrepareConfig(**tomllib.loads(to_toml(prepare=config))["prepare"]) == config
    assert PrepareConfig(batch_key="b", n_top_genes=0) == PrepareConfig(
        batch_key="b", n_top_genes=None
    )


def test_files_have_a_section_a_command(tmp_path):
    path = tmp_path / "settings.toml"
    path.write_text("[prepare]\nbatch_key = 'donor'\n")
    assert read_sections(path) == {"prepare": {"batch_key": "donor"}, "fit": {}, "evaluate": {}}
    assert read_sections(None) == {"prepare": {}, "fit": {}, "evaluate": {}}
    path.write_text("[model]\nn_latent = 3\n")
    with pytest.raises(
        ConfigError, match=r"holds 'model', which is no section of settings\. Section"
    ):
        read_sections(path)


def test_files_that_cannot_be_read_are_named(tmp_path):
    with pytest.raises(
        ConfigError, match=r"no\.toml does not exist\. Write one with --print-config"
    ):
        read_toml(tmp_path / "no.toml")
    with pytest.raises(ConfigError, match=r"cannot be read: Is a directory\."):
        read_toml(tmp_path)
    for content in (b"= 3", b"\xff\xfe"):
        (tmp_path / "bad.toml").write_bytes(content)
        with pytest.raises(ConfigError, match=r"bad\.toml is not valid TOML: "):
            read_toml(tmp_path / "bad.toml")


def test_defaults_need_no_value():
    assert build(RunConfig, {}, place="fit") == RunConfig()
    assert build(RunConfig, asdict(RunConfig()), place="fit") == RunConfig()
