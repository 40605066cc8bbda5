from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from generation.renderers.choice import RENDERERS
from pipelines.executors.choice import EXECUTORS

ROOT = Path(__file__).resolve().parents[1]


class Make:
    """The Makefile, with a crossview that only prints its arguments."""

    def __init__(self, folder: Path) -> None:
        self.venv = folder
        (folder / "bin").mkdir()
        command = folder / "bin" / "crossview"
        command.write_text('#!/bin/sh\nprintf "<%s>" "$@"\n')
        command.chmod(0o755)
        (folder / ".installed").touch()

    def __call__(self, *arguments: str) -> str:
        environment = {"PATH": "/usr/local/bin:/usr/bin:/bin"}
        return subprocess.run(
            ["make", "--silent", "--no-print-directory", f"VENV={self.venv}", *arguments],
            cwd=ROOT,
            env=environment,
            check=True,
            capture_output=True,
            text=True,
        ).stdout

    def given(self, *arguments: str) -> list[str]:
        """Return the arguments that crossview got."""
        return self(*arguments).strip("<>").split("><")


@pytest.fixture
def make(tmp_path: Path) -> Make:
    return Make(tmp_path)


def test_variables_become_options_of_render_pairs(make: Make) -> None:
    variables = ["SCENES=a.glb b.glb", "NUM_PAIRS=1000", "OVERLAP=0.4-0.6", "SEED=0", "DEPTH=1"]
    assert " ".join(make.given("render-pairs", *variables, "EXECUTOR=ray", "OUT=dir")) == (
        "render-pairs --depth --scenes a.glb b.glb --num-pairs 1000 --overlap 0.4-0.6 --seed 0 "
        "--out dir --executor ray"
    )


def test_variables_become_options_of_pretrain(make: Make) -> None:
    variables = ["DATA=pairs", "OUT=run", "CONFIG=run.yaml", "SEED=3", "ARGS=--preset tiny"]
    assert " ".join(make.given("pretrain", *variables)) == (
        "pretrain --config run.yaml --data pairs --seed 3 --out run --preset tiny"
    )


def test_variables_that_are_not_given_leave_no_option(make: Make) -> None:
    assert make.given("demo") == ["run", "demo"]
    assert make.given("bench") == ["bench"]
    assert make.given("render-pairs", "OUT=d", "DEPTH=0") == ["render-pairs", "--out", "d"]


def test_evidence_is_the_study_and_then_what_it_left_open(make: Make) -> None:
    assert " ".join(make.given("evidence", "ARGS=--cores 4")) == (
        "study evidence --report . --cores 4 study follow-up --cores 4 --report docs/follow-up"
    )
    given = make.given("evidence", "OUT=my results")
    assert given[:6] == ["study", "evidence", "--report", ".", "--out", "my results"]
    assert given[6:10] == ["study", "follow-up", "--report", "docs/follow-up"]
    assert given[10:] == ["--out", "my results/follow-up"]


def test_globs_spaces_and_quotes_reach_crossview_unharmed(make: Make) -> None:
    given = make.given("demo", "SCENES=*.toml tests/** procedural:0-9", "OUT=it's in $$HOME")
    assert given[:2] == ["run", "demo"]
    assert given[2:6] == ["--scenes", "*.toml", "tests/**", "procedural:0-9"]
    assert given[6:] == ["--out", "it's in $HOME"]


def test_make_alone_explains_every_target_and_variable(make: Make) -> None:
    explained = {line.split()[0] for line in make().splitlines() if line.startswith("  ")}
    targets = {"demo", "test", "render-pairs", "pretrain", "lint", "types", "bench", "clean"}
    variables = {"SCENES", "NUM_PAIRS", "OVERLAP", "SEED", "OUT", "DATA", "EXECUTOR", "DEPTH"}
    assert targets | variables | {"CONFIG"} <= explained


@pytest.mark.parametrize(("variable", "names"), [("RENDERER", RENDERERS), ("EXECUTOR", EXECUTORS)])
def test_make_alone_names_all_that_a_variable_may_be(make: Make, variable: str, names) -> None:
    (line,) = [line for line in make().splitlines() if line.startswith(f"  {variable} ")]
    assert set(names) <= set(re.findall(r"\w+", line))


def test_a_failed_install_leaves_no_stamp(make: Make) -> None:
    stamp = make.venv / ".installed"
    stamp.unlink()
    with pytest.raises(subprocess.CalledProcessError):
        make("demo", "PYTHON=false")
    assert not stamp.exists()
