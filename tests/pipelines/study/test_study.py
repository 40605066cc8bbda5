"""Studies: commands that are each done once, and a report of what came out."""

import json
import os
import re
import signal
import threading
import time
from collections import Counter
from dataclasses import replace
from itertools import chain
from os.path import normpath
from pathlib import Path

import pytest
import torch
from processes import crossview, wait_for
from synthetic import write_dataset
from torch.utils.flop_counter import FlopCounterMode

from generation.errors import CrossviewError
from pipelines.bench.training import flops_a_pair
from pipelines.cli import _parser, main
from pipelines.commands import pretrain
from pipelines.commands.evaluate import chosen_benchmarks
from pipelines.commands.study_checks import check_study
from pipelines.config import build
from pipelines.study.plan import STUDIES, Job, Study, jobs_of, load_study, stages_before
from pipelines.study.report import write_study_report
from pipelines.study.run import run_study
from training.config import PretrainConfig
from training.downstream.datasets.shards import open_shards
from training.downstream.evaluation import fine_tuned, untrained
from training.downstream.tasks import TASKS
from training.optim import MaskConfig, num_masked


def study(out: Path, commands: dict[str, str], **more) -> Study:
    values = {"title": "T", "out": str(out), "stages": {"one": {"commands": commands}}, **more}
    return build(Study, values, source="test")


def test_a_command_is_done_once_and_again_when_it_is_another(tmp_path: Path):
    def runs() -> int:
        return (tmp_path / "logs" / "help.log").read_text().count("$ crossview")

    assert run_study(study(tmp_path, {"help": "index --help"})) == []
    assert run_study(study(tmp_path, {"help": "index --help"})) == []
    assert runs() == 1
    assert run_study(study(tmp_path, {"help": "verify --help"})) == []
    assert runs() == 2


def test_a_command_is_done_again_where_one_before_it_is_another_or_its_folder_is_gone(tmp_path):
    def runs(pairs: str) -> list[str]:
        """Return the commands that were run, after stages of which the last waits for the first."""
        stages = {
            "pairs": {"commands": {"pairs": f"index {pairs}"}},
            "other": {"commands": {"other": "index --help"}, "after": []},
            "train": {"commands": {"train": "index --help --out {out}/run"}, "after": ["pairs"]},
        }
        logs = {name: tmp_path / "logs" / f"{name}.log" for name in ("pairs", "other", "train")}
        before = {name: log.read_text() if log.exists() else "" for name, log in logs.items()}
        values = {"title": "T", "out": str(tmp_path), "stages": stages}
        assert run_study(build(Study, values, source="test")) == []
        return [name for name, log in logs.items() if log.read_text() != before[name]]

    folder = tmp_path / "run"
    folder.mkdir()
    assert runs("--help") == ["pairs", "other", "train"]
    assert runs("--help") == []
    assert runs("--help --help") == ["pairs", "train"]
    folder.rmdir()
    assert runs("--help --help") == ["train"]


def test_a_run_whose_folder_is_gone_is_not_in_the_report(tmp_path: Path):
    sections = {"runs": {"heading": "Runs", "runs": {"a run": "train"}}}
    ours = study(tmp_path, {"train": "index --help --out {out}/run"}, sections=sections)
    assert run_study(ours) == []
    assert "Not run yet." in write_study_report(ours, tmp_path)


def test_a_failed_command_is_told_and_the_next_stage_does_not_begin(tmp_path: Path):
    stages = {
        "one": {"commands": {"bad": "verify {out}/nothing", "good": "index --help"}},
        "two": {"commands": {"later": "index --help"}},
    }
    failed = build(Study, {"title": "T", "out": str(tmp_path), "stages": stages}, source="test")
    (problem,) = run_study(failed)
    assert "bad: exit status 2" in problem
    assert "nothing" in problem
    assert {path.stem for path in (tmp_path / "done").iterdir()} == {"good"}


def test_a_stage_waits_for_those_it_comes_after_and_for_no_other(tmp_path: Path, monkeypatch):
    def done(**after: list[str]) -> list[str]:
        """Run four stages, of which the first fails; return the commands that were done."""
        stages = {
            "one": {"commands": {"bad": "verify"}},
            "two": {"commands": {}, "after": ["one"]},
            "three": {"commands": {"third": "verify"}},
            "four": {"commands": {"fourth": "verify"}},
        }
        for name, names in after.items():
            stages[name]["after"] = names
        values = {"title": "T", "out": str(tmp_path), "stages": stages}
        begun = []

        def run(_out: Path, job: Job, _stop: object) -> str | None:
            begun.append(job.name)
            return "broken" if job.name == "bad" else None

        monkeypatch.setattr("pipelines.study.run._run", run)
        assert run_study(build(Study, values, source="test")) == ["bad: broken"]
        return begun[1:]

    assert done() == []
    assert done(three=[]) == ["third"]
    assert done(four=["three"]) == []
    assert done(three=[], four=["three"]) == ["third", "fourth"]
    # What has no commands passes on what it waits for.
    assert done(three=[], four=["two"]) == ["third"]


def test_a_stage_after_one_that_is_not_before_it_is_told(tmp_path: Path):
    stages = {"one": {"commands": {}}, "two": {"commands": {}, "after": ["two"]}}
    ours = build(Study, {"title": "T", "out": str(tmp_path), "stages": stages}, source="test")
    with pytest.raises(CrossviewError, match=r"stage 'two': after 'two'.*those are: one"):
        run_study(ours)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"needs": {"nope": "x"}}, "needs = 'nope': expected a command or a phrase"),
        ({"stages": {"one": {"commands": {"a": "'"}}}}, "'a'.*No closing quotation"),
        (
            {"stages": {name: {"commands": {"a": "verify"}} for name in ("one", "two")}},
            "stage 'two': there is a 'a' already",
        ),
    ],
)
def test_a_study_that_cannot_be_run_is_told(tmp_path: Path, changes, words):
    with pytest.raises(CrossviewError, match=words):
        run_study(study(tmp_path, {"a": "verify"}, **changes))


@pytest.mark.parametrize("field", ["seeds", "threads"])
def test_a_stage_of_nothing_is_told(tmp_path: Path, field):
    stages = {"one": {"commands": {}, field: 0}}
    with pytest.raises(CrossviewError, match=f"{field} = 0: expected at least 1"):
        build(Study, {"title": "T", "out": str(tmp_path), "stages": stages}, source="test")


def test_a_phrase_does_not_replace_what_each_command_has(tmp_path: Path):
    with pytest.raises(CrossviewError, match="phrases = 'seed': expected a name that is not out"):
        study(tmp_path, {"a": "verify"}, phrases={"seed": "7"})


@pytest.mark.parametrize("cores", [0, -1])
def test_there_is_a_core(tmp_path: Path, cores: int):
    with pytest.raises(CrossviewError, match=f"--cores = {cores}: expected at least 1"):
        run_study(study(tmp_path, {"a": "verify"}), cores)


def test_a_full_disk_is_a_failure_like_others(tmp_path: Path, monkeypatch):
    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pipelines.study.run._status_of", full)
    two = {"a": "verify", "b": "verify"}
    assert [text[:1] for text in run_study(study(tmp_path, two), 1)] == ["a", "b"]


def test_commands_run_at_once_as_far_as_their_threads_have_cores(tmp_path: Path, monkeypatch):
    now: list[int] = []
    most: list[int] = []
    lock = threading.Lock()

    def busy(_out: Path, job: Job, _stop: object) -> None:
        with lock:
            now.append(job.threads)
            most.append(sum(now))
        time.sleep(0.2)
        with lock:
            now.remove(job.threads)

    monkeypatch.setattr("pipelines.study.run._run", busy)
    commands = dict.fromkeys("abcd", "verify")
    for cores, threads, expected in ((4, 1, 4), (4, 2, 4), (3, 2, 2), (1, 2, 2)):
        most.clear()
        stages = {"one": {"commands": commands, "threads": threads}}
        values = {"title": "T", "out": str(tmp_path), "stages": stages}
        assert run_study(build(Study, values, source="test"), cores) == []
        assert max(most) == expected
        assert len(most) == 4


def test_a_command_is_told_its_share_of_the_cores(tmp_path: Path, monkeypatch):
    shell = tmp_path / "shell"
    shell.write_text("#!/bin/sh\necho $OMP_NUM_THREADS $PYTHON_CPU_COUNT\n")
    shell.chmod(0o755)
    monkeypatch.setattr("sys.executable", str(shell))
    stages = {"one": {"commands": {"a": "verify"}, "threads": 3}}
    values = {"title": "T", "out": str(tmp_path), "stages": stages}
    assert run_study(build(Study, values, source="test"), cores=4) == []
    assert (tmp_path / "logs" / "a.log").read_text().splitlines() == ["$ crossview verify", "3 3"]


def test_what_lacks_its_scans_is_left_out_and_told(tmp_path: Path, caplog):
    """A command, and what another one would do with what it makes."""
    scans = tmp_path / "scans"
    commands = {
        "with": "index --help",
        "scans": "evaluate --help --out {out}/on-scans",
        "both": "evaluate --help {scans} --out {out}/both",
    }
    values = {
        "title": "T",
        "out": str(tmp_path / "out"),
        "phrases": {"made": "{out}/on-scans", "scans": "--val-data scans={made}"},
        "needs": {"scans": str(scans)},
        "stages": {"one": {"commands": commands}, "two": {"commands": {"later": "index --help"}}},
        "sections": {"scans": {"heading": "On scans", "evaluation": "on-scans"}},
    }
    ours = build(Study, values, source="test")

    def done() -> dict[str, str]:
        records = {path.stem: path.read_text() for path in (ours.out / "done").iterdir()}
        return {name: json.loads(text)["command"] for name, text in records.items()}

    assert run_study(ours) == []
    assert done().keys() == {"with", "both", "later"}
    assert "--val-data" not in done()["both"]
    assert f"scans: left out, there is no {scans}" in caplog.text
    assert f"Left out: there is no {scans} here." in write_study_report(ours, tmp_path)
    scans.mkdir()
    assert "Not run yet." in write_study_report(ours, tmp_path)
    assert run_study(ours) == []
    assert done().keys() == {"with", "scans", "both", "later"}
    assert f"--val-data scans={ours.out}/on-scans" in done()["both"]


def test_a_study_that_is_stopped_has_not_failed(tmp_path: Path):
    path, out = tmp_path / "study.yaml", tmp_path / "out"
    commands = {"waits": "verify {out}/pairs"}
    path.write_text(json.dumps({"title": "T", "stages": {"one": {"commands": commands}}}))
    (out / "pairs").mkdir(parents=True)
    os.mkfifo(out / "pairs" / "index.json")  # whoever reads it waits
    process = crossview("study", path, "--out", out)
    wait_for((out / "logs" / "waits.log").exists)
    process.send_signal(signal.SIGINT)
    told, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    assert "stopped; the same command goes on from here" in told
    assert "failed" not in told
    assert list((out / "done").iterdir()) == []


def test_a_signal_that_another_thread_takes_stops_a_study(tmp_path: Path):
    """The kernel gives it to any thread, which does not wake the one that waits for commands."""
    pairs = tmp_path / "pairs"
    pairs.mkdir()
    os.mkfifo(pairs / "index.json")
    late = threading.Timer(30, (pairs / "index.json").write_text, ["no JSON"])
    late.daemon = True  # where nobody reads, it would wait for ever

    def ask() -> None:
        wait_for((tmp_path / "logs" / "waits.log").exists)
        time.sleep(1)  # until it waits
        signal.pthread_kill(threading.get_ident(), signal.SIGINT)

    asks = threading.Thread(target=ask)
    for thread in (asks, late):
        thread.start()
    assert run_study(study(tmp_path, {"waits": f"verify {pairs}"})) == []
    assert late.is_alive(), "the command ended by itself"
    late.cancel()
    asks.join()
    assert list((tmp_path / "done").iterdir()) == []


def test_what_is_stopped_is_not_done_although_training_then_exits_with_0(tmp_path: Path):
    """SIGTERM ends the study and the command that it runs, and no other begins."""
    dataset = write_dataset(tmp_path / "pairs")
    small = "model.image_size=36 optim.batch_size=4 log_every_steps=1"
    train = f"pretrain --preset tiny --data {dataset} --set {small} --out {{out}}/run"
    path = tmp_path / "study.yaml"
    commands = {"failed": "verify {out}/nothing", "first": train, "second": "scenes"}
    path.write_text(json.dumps({"title": "T", "stages": {"one": {"commands": commands}}}))
    out = tmp_path / "out"
    process = crossview("study", path, "--out", out, "--cores", "1")
    log = out / "logs" / "first.log"
    wait_for(lambda: log.exists() and " step " in log.read_text())
    process.send_signal(signal.SIGTERM)
    told, _ = process.communicate(timeout=60)
    assert process.returncode == 2
    assert "the same command goes on from here" in told
    assert "failed: exit status 2" in told
    assert "1 of the commands failed" in told
    assert "asked to stop: saved" in log.read_text()
    assert list((out / "done").iterdir()) == []
    assert not (out / "logs" / "second.log").exists()
    assert float((out / "logs" / "first.minutes").read_text()) > 0


def test_a_result_names_all_commits_that_it_may_come_from(tmp_path: Path, monkeypatch):
    """Of goes that failed, too, but of no other command of this name."""
    inner = tmp_path / "inner.yaml"
    last = f"study {inner} --out {{out}}/inner"  # which there is not before the third go
    goes = (("verify {out}/nothing", "a"), (last, "b"), (last, "c"))
    for number, (command, commit) in enumerate(goes):
        monkeypatch.setattr("pipelines.study.run.git_commit", lambda root, commit=commit: commit)
        if number == 2:
            stages = {"one": {"commands": {"sets": "scenes"}}}
            inner.write_text(json.dumps({"title": "T", "stages": stages}))
        assert len(run_study(study(tmp_path, {"checked": command}))) == (number < 2)
    record = json.loads((tmp_path / "done" / "checked.json").read_text())
    assert record["commits"] == ["b", "c"]
    assert len(record["machines"]) == 1


def test_phrases_and_seeds_are_filled_in(tmp_path: Path):
    values = {
        "title": "T",
        "out": str(tmp_path),
        "phrases": {"base": "--data {out}/pairs"},
        "stages": {"s": {"seeds": 2, "commands": {"m": "evaluate {base} --seed {seed} {{seed}}"}}},
    }
    made = build(Study, values, source="test")
    names = [(job.name, job.arguments[1:]) for job in jobs_of(made)]
    assert names == [
        (f"m-{seed}", ("--data", f"{tmp_path}/pairs", "--seed", str(seed), "{seed}"))
        for seed in (0, 1)
    ]


def test_an_unknown_phrase_is_named(tmp_path: Path):
    with pytest.raises(CrossviewError, match=r"'x'.*'nope'.*known: out, seed"):
        run_study(study(tmp_path, {"x": "verify {nope}"}))


def report_of(out: Path, values: dict[str, list[float]], **section) -> str:
    """Return the report of an evaluation in which these were features_pck, by labels."""
    records = [record_of(label, each) for label, each in values.items()]
    (out / "found").mkdir()
    (out / "found" / "results.json").write_text(json.dumps(records))
    return report_again(out, **section)


def report_again(out: Path, **section) -> str:
    command = "evaluate --task correspondence --data x --weights A=a --out {out}/found"
    found = {"heading": "Found", "evaluation": "found", **section}
    return write_study_report(study(out, {"judge": command}, sections={"found": found}), out)


def record_of(label: str, values: list[float], benchmark: str = "correspondence") -> dict:
    """Return a record of results.json."""
    return {
        **{"benchmark": benchmark, "metric": "features_pck", "weights": label},
        **{"unit": "", "higher_is_better": True, "values": values, "mean": max(values, default=0)},
        **{"minutes_a_seed": 0.1, "failed": []},
    }


ROW = {"old": {"evaluation": "../other", "weights": "CroCo"}}
BESIDE = {"A, long": {"evaluation": "other", "weights": "A"}}


def test_an_evaluation_is_told_of_its_numbers(tmp_path: Path):
    """Of records that older code left, which do not say for how long was trained."""
    text = report_of(tmp_path, {"A": [0.7, 0.5], "B": []})
    assert f"### correspondence\n\n{TASKS['correspondence'].summary}\n\n" in text
    assert "| weights | features_pck ↑ | seeds | minutes a seed |" in text
    assert "| A | 0.600 ± 0.141 | 2 | 0.1 |" in text


def test_rows_of_other_evaluations_stand_beside_and_take_part(tmp_path: Path):
    """Those of the same benchmarks, by the label that they are given; none yet is said."""
    before = report_of(
        tmp_path, {"A": [0.5, 0.3], "constant": [0.1]}, beside=BESIDE, claims=[["A, long", "A"]]
    )
    assert "There is no A, long yet." in before
    assert "| A, long | A | correspondence | features_pck | - | - | - |" in before
    (tmp_path / "other").mkdir()
    others = [
        record_of("A", [0.8, 0.6]),
        record_of("B", [0.9, 0.9]),
        record_of("A", [0.1, 0.2], benchmark="correspondence-rooms"),
        record_of("constant", [0.2]),
    ]
    (tmp_path / "other" / "results.json").write_text(json.dumps(others))
    text = report_again(tmp_path, beside=BESIDE, claims=[["A, long", "A"]])
    rows = re.findall(r"^\| (A.*?|B.*?|const.*?) \| ([-0-9. ±]+) \| .* \| 0.1 \|$", text, re.M)
    assert rows == [("A", "0.400 ± 0.141"), ("A, long", "0.700 ± 0.141")]
    assert text.index("| A, long | 0.7") < text.index("| constant (the same")
    assert "| A, long | A | correspondence | features_pck | +0.300 | +2.1 | yes |" in text
    assert "There is no" not in text
    assert "correspondence-rooms" not in text


def test_no_spread_decides_no_claim(tmp_path: Path):
    """Of numbers that are the same of every seed, as older evaluations without training have."""
    values = {"A": [0.7, 0.7], "B": [0.5, 0.5], "C": [0.3, 0.5]}
    text = report_of(tmp_path, values, claims=[["A", "B", "C"]])
    assert "| A | B | correspondence | features_pck | +0.200 | no spread | - |" in text
    assert "| A | C | correspondence | features_pck | +0.300 | +3.0 | yes |" in text


def test_pretrainings_metrics_say_which_way_is_better(tmp_path: Path):
    ours = study(
        tmp_path,
        {"croco": "pretrain --data x --out {out}/run"},
        sections={"told": {"heading": "Told", "runs": {"CroCo": "croco"}, "curve": "val_loss"}},
    )
    (job,) = jobs_of(ours)
    (tmp_path / "run").mkdir()
    line = {"kind": "val", "step": 1, "val_loss": 0.5, "cross_view_gain": 0.1, "val_pairs": 4}
    (tmp_path / "run" / "metrics.jsonl").write_text(json.dumps(line))
    record = {"command": job.line, "basis": job.basis, "machines": [], "commits": []}
    (tmp_path / "done").mkdir()
    (tmp_path / "done" / "croco.json").write_text(json.dumps(record))
    text = write_study_report(ours, tmp_path)
    assert "| model | val_loss ↓ | cross_view_gain ↑ | geometry_all ↑ |" in text
    assert "| CroCo | 0.500 | 0.100 | - |" in text


def test_a_lead_is_sure_or_not_or_the_other_way_round(tmp_path: Path):
    values = {"A": [0.7, 0.72], "B": [0.4, 0.42], "C": [0.41, 0.4]}
    text = report_of(tmp_path, values, claims=[["A", "B"], ["B", "A"], ["B", "C"], ["C", "B"]])
    assert "| A | B | correspondence | features_pck | +0.300 | +21.2 | yes |" in text
    assert "| B | A | correspondence | features_pck | -0.300 | -21.2 | behind |" in text
    assert "| B | C | correspondence | features_pck | +0.005 | +0.4 | no |" in text
    assert "| C | B | correspondence | features_pck | -0.005 | -0.4 | no |" in text


@pytest.mark.parametrize("decisive", [{"flow": "epe_px"}, {"correspondence": "attention_pck"}])
def test_what_decides_and_was_not_judged_is_missing_in_the_report(tmp_path: Path, decisive):
    """By an older command of the same folder."""
    values = {"A": [0.7, 0.7], "B": [0.5, 0.5]}
    text = report_of(tmp_path, values, claims=[["A", "B"]], decisive=decisive)
    ((benchmark, metric),) = decisive.items()
    assert f"| A | B | {benchmark} | {metric} | - | - | - |" in text
    assert "is another by now" in text
    assert "![" not in text


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"decisive": {"flow": "epe_sen_px"}}, "decisive.flow = 'epe_sen_px': expected one of epe"),
        ({"decisive": {"flows": "epe_px"}}, "decisive = 'flows': expected one of depth, flow"),
        ({"judged_on": "room"}, "judged_on = 'room': expected one of rooms"),
        ({"claims": [["CroCo", "scratch", "Mae"]]}, "claims = 'Mae': expected one of CroCo, MAE, "),
        (
            {"beside": ROW, "claims": [["CroCo", "row"]]},
            "claims = 'row': expected one of old, CroCo",
        ),
        ({"runs": {"CroCo": "crocco"}}, "runs = 'crocco': expected one of croco$"),
        ({"runs": {"CroCo": "judge"}}, "runs = 'judge': expected one of croco$"),
        ({"runs": {"CroCo": "croco"}, "axis": "share"}, "runs = 'CroCo': expected a number"),
        ({"evaluation": "fond"}, "evaluation = 'fond': expected a folder in .*/found"),
        ({"weights": "--wieghts"}, "command 'judge': .*--wieghts"),
        ({"train": "pretrain --help"}, "command 'croco': .*--help"),
        ({"train": "pretrian"}, "command 'croco': .*'pretrian'"),
        ({"train": "pretrain --presett tiny"}, "command 'croco': .*--presett"),
        ({"train": "pretrain --set optim.max_stepps=2"}, "command 'croco': .*max_steps"),
    ],
)
def test_what_is_misspelt_is_told_before_anything_is_run(tmp_path, capsys, changes, words):
    judged = {"evaluation": "found", "judged_on": "rooms", "decisive": {"flow": "epe_px"}}
    typed = {"weights": "--weights", "train": "pretrain"}
    weights, train = (changes.get(name, given) for name, given in typed.items())
    changes = {name: change for name, change in changes.items() if name not in typed}
    judge = (
        f"evaluate --task depth,flow --data x --val-data rooms=y {weights} CroCo=a --scratch "
        "--weights MAE=b --out {out}/found"
    )
    commands = {"croco": f"{train} --data x --out {{out}}/croco", "judge": judge}
    values = {
        "title": "T",
        "stages": {"one": {"commands": commands}},
        "sections": {"told": {"heading": "Told", **judged, **changes}},
    }
    path = tmp_path / "study.yaml"
    path.write_text(json.dumps(values))
    assert main(["study", str(path), "--out", str(tmp_path / "out")]) == 2
    told = capsys.readouterr().err
    assert re.search(words, told), told
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("path", sorted(STUDIES.glob("*.yaml")), ids=lambda path: path.stem)
def test_what_our_studies_compare_is_made_by_their_commands(path: Path, tmp_path: Path):
    """A name misspelt, or a stage that comes too soon, would show after hours."""
    ours = load_study(path.stem, {"out": str(tmp_path)})
    check_study(ours)
    ours = replace(ours, needs=dict.fromkeys(ours.needs, tmp_path))  # which is there
    jobs = jobs_of(ours)
    assert ours.needs.keys() <= {*ours.phrases, *(job.command for job in jobs)}
    by_out = {Path(job.arguments[job.arguments.index("--out") + 1]): job for job in jobs}
    before = stages_before(ours)
    for job in jobs:
        for word in re.findall(rf"{tmp_path}/[^.\s'][^\s']*", job.line):
            used = Path(word.replace("{seed}", "0"))
            maker = by_out.get(used) or by_out[used.parent]
            assert maker == job or maker.stage in before[job.stage], f"{job.name}: {maker.name}"
    for section in ours.sections.values():
        if not section.evaluation:
            continue
        options = _parser().parse_args(list(by_out[tmp_path / section.evaluation].arguments))
        labels = {"scratch", *(text.partition("=")[0] for text in options.weights)}
        for sample in section.samples:
            name, label, *_ = sample.split("/")
            task, _, judged = name.partition("-")
            assert task in TASKS, sample
            assert judged == (section.judged_on or ""), sample
            assert label in labels, sample


def pretraining_of(job: Job) -> PretrainConfig:
    return pretrain.config_of(_parser().parse_args(list(job.arguments)))


def pretraining_flops(config: PretrainConfig) -> float:
    """Return what all steps cost, whose masks differ."""
    num_steps, patches = config.optim.max_steps, config.model.num_patches
    ratios = [config.mask.ratio_at(step, num_steps) for step in range(num_steps)]
    hidden = Counter(num_masked(ratio, patches) for ratio in ratios)
    return config.optim.batch_size * sum(
        steps * flops_a_pair(replace(config, mask=MaskConfig(ratio=masked / patches)))
        for masked, steps in hidden.items()
    )


def test_croco_and_mae_of_our_study_learn_for_equal_compute():
    """To 3 %, and the controls for less."""
    spent = {
        job.command: pretraining_flops(pretraining_of(job))
        for job in jobs_of(load_study("evidence", {}))
        if job.command in ("croco", "mae", "unrelated") and job.seed == 0
    }
    assert spent["mae"] == pytest.approx(spent["croco"], rel=0.03)
    assert spent["croco"] / (5000 * 32) == pytest.approx(1.85e9, rel=0.005)
    assert spent["unrelated"] == pytest.approx(spent["croco"] / 2, rel=0.01)


def test_no_pretraining_is_fine_tuned_for_what_pretraining_cost(tmp_path: Path):
    """And for the steps that the models beside it were fine-tuned for."""
    (config,) = (
        pretraining_of(job)
        for job in jobs_of(load_study("smaller", {}))
        if job.name == "croco-narrow-0"
    )
    spent_before = pretraining_flops(config)
    splits = open_shards(write_dataset(tmp_path))
    jobs = jobs_of(load_study("equal-compute", {}))
    assert [job.command for job in jobs] == ["pose", "flow", "flow-of-few", "flow-as-long"]
    for job in jobs:
        options = _parser().parse_args(list(job.arguments))
        task, recipe = next((each.task, each.recipe) for each in chosen_benchmarks(options))
        one = replace(recipe, max_steps=1, batch_size=1)
        with FlopCounterMode(display=False) as counter:
            fine_tuned(
                **{"task": task, "model": untrained(config.model, 0), "splits": splits},
                **{"recipe": one, "seed": 0, "device": torch.device("cpu"), "num_workers": 0},
                **{"report": lambda step, loss: None, "snapshot": None},
            )
        more = recipe.num_steps(60_000) - task.recipes["short"].num_steps(60_000)
        spent = more * recipe.batch_size * counter.get_total_flops()
        assert spent == pytest.approx(spent_before, rel=0.005), job.command


@pytest.mark.parametrize(
    ("name", "least"), [("follow-up", 11), ("smaller", 4), ("equal-compute", 6)]
)
def test_what_is_asked_afterwards_is_asked_of_what_the_study_makes(name: str, least: int):
    """In the folder beside its own, whatever it is called, or in its own."""
    out = "it is/2026-11-22"
    firsts = [load_study("evidence", {"out": out})]
    firsts += [load_study("smaller", {"out": f"{out}/smaller"})] if name == "equal-compute" else []
    second = load_study(name, {"out": f"{out}/{name}"})
    jobs = chain(*map(jobs_of, [*firsts, second]))
    made = {normpath(job.arguments[job.arguments.index("--out") + 1]) for job in jobs}
    words = [word for job in jobs_of(second) for word in job.arguments if "/.." in word]
    used = {normpath(word.rpartition("=")[2].replace("{seed}", "0")) for word in words}
    rows = [row for section in second.sections.values() for row in section.beside.values()]
    used |= {normpath(second.out / row.evaluation) for row in rows}
    assert len(used) >= least
    assert used <= made
    assert normpath(load_study(name, {}).out / "..") == str(load_study("evidence", {}).out)


MICRO = """
title: A micro study
out: {out}
phrases:
  model: >-
    --set model.image_size=16 model.patch_size=4 model.enc_dim=16 model.enc_depth=1
    model.enc_heads=2 model.dec_dim=16 model.dec_depth=1 model.dec_heads=2
    model.pos_embed=rope100 optim.max_steps=2 optim.batch_size=4 validation.num_pairs=4
    validation.every_steps=1
  scans: --val-data scans={{out}}/others
needs: {{scans: {scans}}}
stages:
  pairs:
    commands:
      pairs: >-
        render-pairs --scenes procedural:0-1 --num-pairs 8 --image-size 20 --depth
        --executor serial --out {{out}}/pairs
      others: >-
        render-pairs --scenes procedural:10-11 --num-pairs 8 --image-size 20 --depth
        --executor serial --out {{out}}/others
  models:
    seeds: 2
    commands:
      croco: pretrain --data {{out}}/pairs --seed {{seed}} --out {{out}}/croco-{{seed}} {{model}}
      mae: >-
        pretrain --data {{out}}/pairs --seed {{seed}} --out {{out}}/mae-{{seed}} {{model}}
        model.decoder=self
  evaluation:
    commands:
      heads: >-
        evaluate --weights croco={{out}}/croco-{{{{seed}}}} --weights mae={{out}}/mae-{{{{seed}}}}
        --scratch --task depth,correspondence --data {{out}}/pairs --seeds 2 --set max_steps=1
        head_width=8 batch_size=2 --val-data {{out}}/others {{scans}} --out {{out}}/evaluation
sections:
  models:
    heading: Models
    runs: {{CroCo: croco, MAE: mae}}
    curve: val_loss
  share:
    heading: By share
    runs: {{"0.1": croco, "0.9": mae}}
    axis: share
    metrics: [val_loss]
  heads:
    heading: Heads
    evaluation: evaluation
    claims: [[croco, mae, scratch], [croco, mae]]
    decisive: {{depth: delta1, correspondence: attention_moved}}
    samples: [depth/mae/seed_1/picture_0.png, depth/mae/seed_7/picture_0.png]
  scans:
    heading: On scans
    evaluation: evaluation
    judged_on: scans
    claims: [[croco, mae]]
    decisive: {{depth: rel}}
"""


@pytest.mark.slow
def test_a_study_goes_from_rooms_to_a_report_with_pictures(tmp_path: Path, capsys):
    out = tmp_path / "out"
    path = tmp_path / "micro.yaml"
    scans = tmp_path / "scans"
    path.write_text(MICRO.format(out=out, scans=scans))
    report = tmp_path / "report"
    study = ["study", str(path), "--report", str(report)]
    assert main(study) == 0
    assert f"## On scans\n\nLeft out: there is no {scans} here." in capsys.readouterr().out
    scans.mkdir()
    assert main(study) == 0
    text = (report / "RESULTS.md").read_text()
    assert text.strip() in capsys.readouterr().out
    assert re.search(r"\| CroCo \| [\d.]+ ± [\d.]+ \|", text)
    minutes = re.search(r"\| models \| ([\d.]+) \|", text)
    assert minutes
    assert float(minutes[1]) > 0
    wall = re.search(r"\| by the clock \| ([\d.]+) \|", text)
    assert wall
    assert float(wall[1]) >= float(minutes[1]) / (os.cpu_count() or 1)
    for two in ("croco | mae", "croco | scratch", "mae | scratch"):
        assert re.search(
            rf"\| {re.escape(two)} \| depth \| delta1 \| [-+][\d.]+ .*\| (yes|no|behind) \|", text
        )
    # One has no attention.
    assert "| mae | scratch | correspondence | attention_moved | - | - | - |" in text
    assert "Not run yet" not in text
    pictures = re.findall(r"!\[.*\]\((.*)\)", text)
    assert [Path(picture).name for picture in pictures] == [
        "models_curve.png", "share_axis.png", "heads_bars.png", "heads_sample_0.png",
        "scans_bars.png",
    ]  # fmt: skip
    assert [text.count(f"### {name}\n") for name in ("depth", "depth-scans")] == [1, 2]
    assert re.search(r"\| croco \| mae \| depth-scans \| rel \| [-+][\d.]+ ", text)
    assert all((report / picture).stat().st_size > 5000 for picture in pictures)
    for numbers in re.findall(r"\[The numbers of every seed\]\((.*)\)\)", text):
        assert json.loads((report / numbers).read_text())
    assert "There is no depth/mae/seed_7/picture_0.png." in text
    records = json.loads((out / "evaluation" / "results.json").read_text())
    depth = {each["weights"]: each["values"] for each in records if each["benchmark"] == "depth"}
    counts = {weights: len(values) for weights, values in depth.items()}
    assert counts == {"croco": 2, "mae": 2, "scratch": 2, "constant": 1}
