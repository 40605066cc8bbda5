from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest

from generation.errors import CrossviewError
from generation.overlap import OverlapBand
from generation.pairs import PairConfig
from generation.plain import diff_plain, merge, to_plain
from pipelines.config import (
    MANIFESTS,
    ConfigError,
    build,
    load_yaml,
    parse_overrides,
)


@dataclass(frozen=True, kw_only=True)
class Constant:
    value: float


@dataclass(frozen=True, kw_only=True)
class Ramp:
    first: float
    last: float = 1.0


@dataclass(frozen=True, kw_only=True)
class Optim:
    lr: float = 1.5e-4
    betas: tuple[float, float] = (0.9, 0.95)
    max_steps: int | None = None
    nesterov: bool = False
    schedule: Constant | Ramp = Constant(value=1.0)

    def __post_init__(self) -> None:
        if self.lr <= 0:
            raise CrossviewError(f"lr = {self.lr}: expected more than 0")
        if self.max_steps == 13:
            raise CrossviewError("this class does not like 13")


@dataclass(frozen=True, kw_only=True)
class Band:
    low: float
    high: float

    @classmethod
    def parse(cls, text: str) -> Band:
        low, dash, high = text.partition("-")
        if not dash:
            raise CrossviewError(f"overlap: expected LO-HI, got {text!r}")
        return cls(low=float(low), high=float(high))


@dataclass(frozen=True, kw_only=True)
class Run:
    data: Path
    overlap: Band = Band(low=0.4, high=0.6)
    extra: dict[str, Any] = field(default_factory=dict)
    optim: Optim = field(default_factory=Optim)
    device: Literal["auto", "cpu", "cuda"] = "auto"
    patch_size: Literal[8, 16] = 16
    scenes: tuple[str, ...] = ()
    weights: dict[str, float] = field(default_factory=dict)
    seed: int = 0


def complaint(values: dict[str, object]) -> str:
    with pytest.raises(ConfigError) as caught:
        build(Run, {"data": "d", **values}, source="run.yaml")
    return str(caught.value)


def written(folder: Path, text: str) -> Path:
    path = folder / "run.yaml"
    path.write_text(text)
    return path


def test_a_file_becomes_nested_dataclasses(tmp_path: Path) -> None:
    text = """
        data: pairs/train
        optim: {lr: 1, betas: [0.9, 0.99], max_steps: 100, schedule: {first: 0.5}}
        device: cpu
        patch_size: 8
        scenes: [a.glb, "00800"]
        weights: {depth: 2}
    """
    path = written(tmp_path, text)
    run = build(Run, load_yaml(path), source=path)
    optim = Optim(lr=1.0, betas=(0.9, 0.99), max_steps=100, schedule=Ramp(first=0.5))
    assert run == Run(
        data=Path("pairs/train"),
        optim=optim,
        device="cpu",
        patch_size=8,
        scenes=("a.glb", "00800"),
        weights={"depth": 2.0},
    )
    assert type(run.optim.lr) is type(run.weights["depth"]) is float


def test_a_plain_config_survives_json_and_build() -> None:
    run = Run(data=Path("d"), scenes=("a", "b"), optim=Optim(schedule=Ramp(first=0.0)))
    assert build(Run, json.loads(json.dumps(to_plain(run))), source="config.json") == run


def test_a_class_with_parse_reads_text_or_a_mapping() -> None:
    for overlap in ("0.1-0.3", {"low": 0.1, "high": 0.3}):
        run = build(Run, {"data": "d", "overlap": overlap}, source="run.yaml")
        assert run.overlap == Band(low=0.1, high=0.3)
    assert complaint({"overlap": "0.1"}) == ("run.yaml: overlap: expected LO-HI, got '0.1'")


def test_a_field_of_any_value_takes_it_as_it_is() -> None:
    extra = {"preset": "tiny", "optim": {"lr": [1]}}
    assert build(Run, {"data": "d", "extra": extra}, source="run.yaml").extra == extra


def test_an_unknown_key_names_file_key_value_and_the_nearest_valid_name() -> None:
    message = complaint({"optim": {"max_step": 3}})
    assert message == (
        "run.yaml: optim.max_step: unknown key (given 3); did you mean max_steps?; "
        "expected one of lr, betas, max_steps, nesterov, schedule"
    )


def test_a_missing_key_says_what_is_expected() -> None:
    with pytest.raises(ConfigError, match=r"^run\.yaml: data: missing; expected a path$"):
        build(Run, {}, source="run.yaml")
    assert "optim.schedule.value: missing" in complaint({"optim": {"schedule": {}}})


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"seed": True}, "seed: expected a whole number, got true"),
        ({"seed": 1000.0}, "seed: expected a whole number, got 1000.0; write 1000"),
        ({"seed": None}, "seed: expected a whole number, got null"),
        ({"data": ""}, 'data: expected a path, got ""'),
        (
            {"optim": 3},
            "optim: expected a mapping of lr, betas, max_steps, nesterov, schedule, got 3",
        ),
        ({"optim": {"lr": True}}, "optim.lr: expected a number, got true"),
        ({"optim": {"lr": float("nan")}}, "optim.lr: expected a number, got NaN"),
        ({"optim": {"lr": 10**400}}, "optim.lr: expected a number, got 1000"),
        ({"optim": {"lr": "1e-4"}}, 'optim.lr: expected a number, got "1e-4"; write 1.0e-4'),
        ({"optim": {"lr": "2.5E3"}}, 'optim.lr: expected a number, got "2.5E3"; write 2.5e+3'),
        ({"optim": {"nesterov": 1}}, "optim.nesterov: expected true or false, got 1"),
        ({"optim": {"betas": [0.9]}}, "optim.betas: expected a list of 2 (a number, a number)"),
        ({"optim": {"betas": [0.9, "x"]}}, 'optim.betas[1]: expected a number, got "x"'),
        ({"optim": {"max_steps": "x"}}, "optim.max_steps: expected a whole number or null"),
        ({"optim": {"schedule": {"frist": 1}}}, "optim.schedule.frist: unknown key (given 1)"),
        ({"optim": {"schedule": {"first": "x"}}}, "optim.schedule.first: expected a number"),
        ({"device": "gpu"}, 'device: expected auto or cpu or cuda, got "gpu"'),
        ({"seed": "1e3"}, 'seed: expected a whole number, got "1e3"; write 1000'),
        ({"patch_size": 8.0}, "patch_size: expected 8 or 16, got 8.0"),
        ({"scenes": "a.glb"}, 'scenes: expected a list, each text, got "a.glb"'),
        ({"scenes": ["a", 800]}, "scenes[1]: expected text, got 800; put it in quotes"),
        ({"weights": {1: 2.0}}, "weights: expected a mapping"),
        ({"weights": {"depth": "x"}}, 'weights.depth: expected a number, got "x"'),
    ],
)
def test_a_mistyped_value_names_key_expectation_and_value(
    values: dict[str, object], expected: str
) -> None:
    assert complaint(values).startswith(f"run.yaml: {expected}")


def test_a_class_that_refuses_its_values_is_quoted_with_file_and_key() -> None:
    assert complaint({"optim": {"lr": -1}}) == "run.yaml: optim.lr = -1.0: expected more than 0"
    assert complaint({"optim": {"max_steps": 13}}) == "run.yaml: optim: this class does not like 13"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "line 1: expected a mapping of keys to values, got an empty file"),
        ("- a\n- b\n", 'line 1: expected a mapping of keys to values, got ["a", "b"]'),
        ("a: 1\nb: [1, 2\nc: 3\n", "line 3: not valid YAML"),
        ("a: 1\nb:\n  c: 1\n  d: 2\n  c: 3\n", "line 5: not valid YAML: key 'c' is given twice"),
        ("a: 1\nb: {c: 1, c: 1}\n", "line 2: not valid YAML: key 'c' is given twice"),
        ("a: 1\nb: !!python/object:os.system {}\n", "line 2: not valid YAML"),
        ("day: 2024-13-45\n", "not valid YAML: month must be in 1..12"),
    ],
)
def test_an_unusable_file_is_named_with_its_line(tmp_path: Path, text: str, expected: str) -> None:
    path = written(tmp_path, text)
    with pytest.raises(ConfigError) as caught:
        load_yaml(path)
    assert str(path) in str(caught.value)
    assert expected in str(caught.value)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.yaml: cannot read .*: No such file"):
        load_yaml(tmp_path / "none.yaml")


def test_merge_keys_of_yaml_are_no_duplicates(tmp_path: Path) -> None:
    path = written(tmp_path, "a: &a {x: 1, y: 2}\nb: &b {<<: *a, x: 3}\nc: {<<: *b, y: 4}\n")
    assert load_yaml(path)["c"] == {"x": 3, "y": 4}


def test_overrides_are_nested_yaml_and_the_last_wins() -> None:
    assert parse_overrides(["a.b=1", "a.c=[x, 2.5]", "d=null", "a.b=true", "e=k=v"]) == {
        "a": {"b": True, "c": ["x", 2.5]},
        "d": None,
        "e": "k=v",
    }


@pytest.mark.parametrize("bad", ["a", "=1", "a..b=1", "a=[1"])
def test_an_override_that_cannot_be_read_is_quoted(bad: str) -> None:
    with pytest.raises(ConfigError, match="override"):
        parse_overrides([bad])


def test_merge_is_deep_and_leaves_its_inputs_alone() -> None:
    base = {"a": {"x": 1, "y": [1, 2]}, "b": 1}
    assert merge(base, {"a": {"y": [3]}, "b": {"z": 1}}) == {"a": {"x": 1, "y": [3]}, "b": {"z": 1}}
    assert base == {"a": {"x": 1, "y": [1, 2]}, "b": 1}


def test_differences_name_dotted_keys_with_both_values() -> None:
    old = {"seed": 0, "optim": {"lr": 0.1, "betas": [0.9, 0.95]}, "gone": None}
    new = {"seed": 0, "optim": {"lr": 0.2, "betas": [0.9, 0.95]}, "device": "cpu"}
    assert diff_plain(old, new) == [
        "optim.lr: 0.1 before, 0.2 now",
        "gone: null before, absent now",
        'device: absent before, "cpu" now',
    ]
    assert diff_plain(old, old) == []


def test_levels_of_overlap_have_names():
    config = build(PairConfig, {"overlap": "near-half"}, source="test")
    assert config.overlap == OverlapBand(low=0.4, high=0.6)
    names = load_yaml(MANIFESTS / OverlapBand.manifest)
    assert {"low", "near-half", "high", "uniform", "official"} <= names.keys()
    for name in names:
        build(PairConfig, {"overlap": name}, source="test")
    with pytest.raises(ConfigError, match="or a name: low, near-half, high"):
        build(PairConfig, {"overlap": "middling"}, source="test")
