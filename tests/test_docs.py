"""The tour runs as it stands, and every command that the pages show has options that exist."""

import re
import shlex
import subprocess
from pathlib import Path

import pytest

from pipelines.cli import COMMANDS, _parser, main
from pipelines.commands.study_checks import check_study
from pipelines.study.plan import jobs_of, load_study

DOCS = Path(__file__).resolve().parents[1] / "docs"


def commands_of(page: Path, *programs: str) -> list[str]:
    blocks = re.findall(r"```sh\n(.*?)```", page.read_text(), re.DOTALL)
    text = "\n".join(blocks).replace("\\\n", " ")
    return [line.strip() for line in text.splitlines() if line.split(" ")[0] in programs]


@pytest.mark.parametrize("page", sorted(DOCS.glob("*.md")), ids=lambda page: page.stem)
def test_commands_on_a_page_have_options_that_exist(page: Path):
    commands = commands_of(page, "crossview")
    assert commands
    for command in commands:
        _parser().parse_args(shlex.split(command)[1:])


def test_the_study_that_a_page_shows_can_be_run(tmp_path: Path):
    page = (DOCS / "evaluation.md").read_text()
    (text,) = re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)
    (tmp_path / "study.yaml").write_text(text)
    study = load_study(str(tmp_path / "study.yaml"), {})
    check_study(study)
    weights = "plain=out/brightness/plain-{seed}"
    assert weights in jobs_of(study)[-1].arguments


def test_the_study_shows_pictures_of_the_results_and_nothing_else_lies_there():
    shown = pictures_of(DOCS / "study.md")
    folders = [DOCS / name for name in ("results", "follow-up", "smaller", "equal-compute")]
    pages = [DOCS.parent / "RESULTS.md", *(folder / "RESULTS.md" for folder in folders[1:])]
    named = {picture for page in pages for picture in pictures_of(page)}
    assert shown <= named
    assert {path for folder in folders for path in folder.glob("*[!d]")} == named


def pictures_of(page: Path) -> set[Path]:
    """Return the pictures and numbers that a page links."""
    links = re.findall(r"\]\(([^)]*\.(?:png|json))\)", page.read_text())
    return {(page.parent / link).resolve() for link in links}


@pytest.mark.slow
def test_the_tour_runs_and_shows_every_command(tmp_path: Path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    lines = [shlex.split(line) for line in commands_of(DOCS / "tour.md", "crossview", "tar")]
    shown = {words[1] for words in lines if words[0] == "crossview"}
    assert shown == {c.__name__.rpartition(".")[2].replace("_", "-") for c in COMMANDS}
    for words in lines:
        if words[0] == "crossview":
            assert main(words[1:]) == 0, words
        else:
            subprocess.run(words, check=True)
    assert "pairs/s" in capsys.readouterr().out
    for result in (
        "pairs/inspect.html",
        "levels/high/index.json",
        "larger/regenerate.json",
        "completion/completion.png",
        "match.json",
        "evaluation/results.md",
    ):
        assert (tmp_path / "out" / result).exists()
