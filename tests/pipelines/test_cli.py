"""The command as a user meets it: help that can be read, errors that can be acted on."""

import ast
import os
import shlex
import subprocess
import sys
from pathlib import Path

import aiohttp
import pytest
import yaml

from generation.machine import num_cores
from generation.scenes.export import export_glb
from generation.scenes.procedural import make_room
from generation.shards.reader import ShardIndex
from pipelines.cli import COMMANDS, main

ROOT = Path(__file__).resolve().parents[2]
TINY_ROOM = ["--scenes", "procedural:0", "--image-size", "64", "--executor", "serial"]


@pytest.mark.parametrize(
    "command", [[], *([c.__name__.rpartition(".")[2].replace("_", "-")] for c in COMMANDS)]
)
def test_every_command_explains_itself(command: list[str], capsys: pytest.CaptureFixture):
    with pytest.raises(SystemExit) as exit_info:
        main([*command, "--help"])
    assert exit_info.value.code == 0
    text = capsys.readouterr().out
    assert text.startswith("usage: crossview")
    assert max(map(len, text.splitlines())) < 140


def test_help_needs_nothing_of_linux(monkeypatch, capsys: pytest.CaptureFixture):
    monkeypatch.delattr("os.sched_getaffinity")
    monkeypatch.delenv("PYTHON_CPU_COUNT", raising=False)
    with pytest.raises(SystemExit) as exit_info:
        main(["--help"])
    assert exit_info.value.code == 0
    assert num_cores() == os.cpu_count()


def test_render_pairs_prints_its_table_and_where_the_pairs_are(
    tmp_path: Path, capsys: pytest.CaptureFixture
):
    out = tmp_path / "pairs"
    arguments = ["render-pairs", *TINY_ROOM, "--num-pairs", "3", "--overlap", "0.3-0.7"]
    assert main([*arguments, "--depth", "--seed", "5", "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    assert "procedural-000000" in printed
    assert "3 pairs in 1 shards" in printed
    assert (out / "index.json").exists()


def test_an_option_that_is_given_twice_adds_up(tmp_path: Path):
    out = tmp_path / "pairs"
    arguments = ["render-pairs", *TINY_ROOM, "--scenes", "procedural:1", "--num-pairs", "2"]
    assert main([*arguments, "--out", str(out)]) == 0
    assert ShardIndex.open(out).scenes == ("procedural-000000", "procedural-000001")


@pytest.mark.parametrize(
    ("command", "said"), [("render-pairs", "--scenes: missing"), ("pretrain", "--data: missing")]
)
def test_what_was_forgotten_is_called_by_its_option(command, said, tmp_path, capsys):
    assert main([command, "--out", str(tmp_path / "out")]) == 2
    assert said in capsys.readouterr().err


def test_options_go_before_the_configuration_file(tmp_path: Path):
    config = tmp_path / "config.yaml"
    config.write_text(yaml.safe_dump({"scenes": ["procedural:0"], "num_pairs": 1000, "seed": 3}))
    out = tmp_path / "pairs"
    arguments = ["render-pairs", "--config", str(config), "--num-pairs", "2", *TINY_ROOM[2:]]
    assert main([*arguments, "--set", "shards.jpeg_quality=80", "--out", str(out)]) == 0
    recorded = yaml.safe_load((out / "config.json").read_text())["config"]
    assert (recorded["num_pairs"], recorded["seed"]) == (2, 3)
    assert recorded["shards"]["jpeg_quality"] == 80


BAD_INPUT = [
    (["--overlap", "0.6-0.4"], "overlap"),
    (["--overlap", "wide"], "overlap"),
    (["--num-pairs", "0"], "num_pairs"),
    (["--scenes", "nowhere/*.glb"], "no mesh file matches"),
    (["--scenes", "gone.glb"], "gone.glb: no such file"),
    (["--scenes", "gone"], "gone: no such file or folder; expected mesh files"),
    (["--scenes", "procedural:9-3"], "procedural:FIRST-LAST"),
    (["--set", "pairs.hfov=60"], "hfov_deg"),
    (["--set", "pairs.hfov=60", "--set", "seed=1"], "hfov_deg"),
    (["--set", "pairs.viewpoints.floor.step_m=0"], "step_m = 0.0: expected more than 0"),
    (["--set", "pairs.hfov_deg=wide"], "pairs.hfov_deg: expected a number"),
    (["--config", "gone.yaml"], "gone.yaml"),
    (["--up", "w"], "up: expected one of"),
    (["--overlap", "0.4-0.6", "--levels", "low", "high"], "leave out --overlap, or the levels"),
    (["--overlap", "high", "--set", "levels={a: low}"], "leave out --overlap, or the levels"),
]


@pytest.mark.parametrize(("arguments", "message"), BAD_INPUT)
def test_bad_input_gets_one_clear_message_and_exit_status_2(
    tmp_path: Path, capsys: pytest.CaptureFixture, arguments: list[str], message: str
):
    out = tmp_path / "pairs"
    given = TINY_ROOM[2:] if "--scenes" in arguments else TINY_ROOM
    status = main(["render-pairs", *given, "--num-pairs", "2", *arguments, "--out", str(out)])
    assert status == 2
    printed = capsys.readouterr().err
    assert message in printed
    assert "Traceback" not in printed
    assert not list(tmp_path.glob("**/*.tar"))


def test_pretrain_on_something_that_is_not_a_dataset(tmp_path: Path, capsys: pytest.CaptureFixture):
    out = tmp_path / "run"
    status = main(["pretrain", "--data", str(tmp_path), "--preset", "tiny", "--out", str(out)])
    assert status == 2
    assert "index.json" in capsys.readouterr().err
    assert not out.exists()


def test_an_output_that_cannot_be_made(tmp_path: Path, capsys: pytest.CaptureFixture):
    (tmp_path / "file").touch()
    arguments = ["render-pairs", *TINY_ROOM, "--num-pairs", "1"]
    assert main([*arguments, "--out", str(tmp_path / "file" / "pairs")]) == 2
    assert "cannot make this output folder" in capsys.readouterr().err


@pytest.mark.parametrize(
    "command",
    ["pretrain --data pairs", "evaluate --task depth", "export --weights w --to timm"],
)
def test_what_is_written_on_this_machine_takes_no_url(command: str, capsys: pytest.CaptureFixture):
    with pytest.raises(SystemExit) as exit_info:
        main([*command.split(), "--out", "s3://bucket/run"])
    assert exit_info.value.code == 2
    assert "expected a folder or file of this machine, got s3://bucket" in capsys.readouterr().err


@pytest.mark.parametrize(
    "command",
    [
        "index s3://bucket/pairs",
        "complete --weights s3://bucket/run --target a --reference b --out out",
        "match --weights s3://bucket/run a b --out out.png",
        "match --weights run s3://bucket/a b --out out.png",
        "export --weights s3://bucket/run --to timm --out out",
    ],
)
def test_what_is_read_from_this_machine_takes_no_url(command: str, capsys: pytest.CaptureFixture):
    with pytest.raises(SystemExit) as exit_info:
        main(command.split())
    assert exit_info.value.code == 2
    assert "expected a folder or file of this machine, got s3://bucket" in capsys.readouterr().err


def test_a_benchmark_reads_a_dataset_behind_a_url(capsys: pytest.CaptureFixture):
    assert main(["bench-data", "--data", "memory://nowhere/pairs"]) == 2
    assert "memory://nowhere/pairs/index.json: expected a dataset" in capsys.readouterr().err


def test_a_bucket_without_credentials_is_told(monkeypatch, capsys: pytest.CaptureFixture):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", "/nowhere")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nowhere")
    url = "s3://no-bucket-of-ours/pairs"
    assert main(["render-pairs", *TINY_ROOM, "--num-pairs", "1", "--out", url]) == 2
    said = capsys.readouterr().err
    assert "NoCredentialsError: Unable to locate credentials; of a bucket: is it reach" in said


@pytest.mark.parametrize(
    ("error", "of_a_bucket"),
    [
        (OSError(28, "No space left on device"), False),
        (BrokenPipeError(32, "Broken pipe"), False),
        (ConnectionResetError(104, "Connection reset by peer"), True),
        (aiohttp.ClientOSError(111, "Connect call failed"), True),
        (aiohttp.ClientPayloadError("Response payload is not completed"), True),
    ],
)
def test_an_error_that_names_no_file_is_told(
    monkeypatch, capsys: pytest.CaptureFixture, error, of_a_bucket
):
    """With where it was, unless that is a bucket."""

    def fail(*_, **__):
        raise error

    monkeypatch.setattr("generation.shards.verify.verify_dataset", fail)
    assert main(["verify", "somewhere"]) == 2
    said = capsys.readouterr().err
    assert f"crossview: {type(error).__name__}: {error}" in said
    assert ("Traceback" in said) != ("of a bucket: is it reachable" in said) == of_a_bucket


def test_a_closed_stderr_is_no_error(tmp_path: Path):
    words = ["render-pairs", *TINY_ROOM, "--num-pairs", "1", "--out", "out"]
    command = shlex.join([sys.executable, "-m", "pipelines.cli", *words])
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    subprocess.run(f"{command} 2>&-", shell=True, cwd=tmp_path, env=environment, check=True)
    assert (tmp_path / "out" / "index.json").exists()


def test_file_names_are_told_in_any_locale(tmp_path: Path):
    name = "r\N{LATIN SMALL LETTER A WITH DIAERESIS}ume.glb"
    export_glb(make_room(0), tmp_path / name)
    words = ["render-pairs", "--scenes", name, *TINY_ROOM[2:], "--num-pairs", "1"]
    environment = {
        **os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0",
        "PYTHONPATH": str(ROOT),
    }  # fmt: skip
    command = [sys.executable, "-m", "pipelines.cli", *words, "--out", "out"]
    for _ in range(2):  # the second reads what the first wrote
        subprocess.run(command, cwd=tmp_path, env=environment, check=True)
    card = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    assert f"--scenes {name}" in card or f"--scenes '{name}'" in card


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_reader_that_has_read_enough_is_no_error(unbuffered: str):
    """As of `crossview scenes | head -1`."""
    command = [sys.executable, "-m", "pipelines.cli", "scenes"]
    with subprocess.Popen(
        command,
        cwd=ROOT,
        env={**os.environ, "PYTHONUNBUFFERED": unbuffered},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert "Error" not in process.stderr.read()
    assert process.returncode == 141


def test_a_recipe_into_a_file_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture):
    (tmp_path / "file").touch()
    assert main(["run", "demo", "--out", str(tmp_path / "file")]) == 2
    assert str(tmp_path / "file") in capsys.readouterr().err


def test_an_option_stands_in_for_the_files_other_field(tmp_path: Path):
    config = tmp_path / "config.yaml"
    config.write_text(yaml.safe_dump({"scenes": ["procedural:0"], "pairs_per_scene": 1000}))
    arguments = ["render-pairs", "--config", str(config), *TINY_ROOM[2:], "--num-pairs", "1"]
    assert main([*arguments, "--out", str(tmp_path / "pairs")]) == 0


def test_the_command_imports_nothing_large_until_it_needs_it():
    """So that it starts at once, and `crossview doctor` where numpy is broken."""
    large = "('ray', 'torch', 'numpy')"
    code = f"import sys, pipelines.cli; print([m for m in {large} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def imports_of(package: str) -> set[str]:
    """Return the top-level names that a package's modules import (webdataset brings torch)."""
    names: set[str] = set()
    for path in (ROOT / package).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                names |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                names.add(node.module.partition(".")[0])
    return names


def test_imports_flow_one_way():
    assert not imports_of("generation") & {"training", "pipelines", "torch", "ray", "yaml"}
    assert not imports_of("training") & {"pipelines", "ray", "yaml", "embreex"}


@pytest.mark.parametrize("library", ["embreex", "moderngl", "ray", "yaml", "webdataset"])
def test_a_heavy_library_has_one_door(library: str):
    doors = {
        path.name
        for package in ("generation", "training", "pipelines")
        for path in (ROOT / package).rglob("*.py")
        if f"import {library}\n" in path.read_text() or f"from {library}" in path.read_text()
    }
    assert len(doors) == (2 if library == "ray" else 1), doors  # tasks, and Ray Train
