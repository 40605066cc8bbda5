"""Verify a dataset: that every shard is what was written, and that what was written makes sense."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from generation.bounds import require
from generation.errors import MachineError
from generation.files import file_sha256
from generation.locations import is_listed
from generation.plain import diff_plain
from generation.shards.cameras import POSES
from generation.shards.pair_flaws import Expected, pair_flaws, plain_flaws
from generation.shards.reader import ShardIndex
from generation.shards.schema import (
    CONFIG_NAME,
    INDEX_AGAIN,
    INDEX_NAME,
    MEND,
    META,
    VIEWS,
    ShardEntry,
    ShardError,
    Sidecar,
    read_config,
    read_json,
    sidecar_path,
    sidecars_in,
)
from generation.shards.sidecar_flaws import flaws_beside, local_copy, sidecar_flaws

MOVE_AWAY = "move away what the index does not list, or add its scenes to the command"
AS_WRITTEN = (
    "what is wrong with the pairs themselves was written like this, and rendering again gives the "
    "same bytes: leave out their scene, or use another seed"
)


@dataclass(frozen=True, kw_only=True)
class Problem:
    """Something in a dataset that is not as it should be."""

    file: str
    """Name of the file, relative to the dataset's folder."""
    what: str
    """What is wrong with it."""
    mend: str = MEND
    """What to do about it."""


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What was found in a dataset."""

    shards: tuple[ShardEntry, ...]
    """Those of the index; without a readable index, those of the sidecars."""
    problems: tuple[Problem, ...]
    """Empty: all is well."""


@dataclass(frozen=True, kw_only=True)
class ShardFindings:
    """What a look at one shard found; small enough to travel between processes."""

    entry: ShardEntry
    problems: tuple[Problem, ...]
    sha256: str = ""
    """Of the tar as it lies there."""
    keys: tuple[str, ...] = ()
    """Of its pairs; empty for a tar from elsewhere: other tars may have the same keys."""
    digests: tuple[tuple[bytes, bytes], ...] = ()
    """Of every pair, a digest of its images and one of its poses, for any order of the views."""


def verify_dataset(
    folder: Path,
    *,
    quick: bool = False,
    workers: int = 1,
    track: Callable[[Iterator[ShardFindings], int], Iterator[ShardFindings]] = lambda found, _: (
        found
    ),
) -> Verdict:
    """Check a dataset against its index, its sidecars and the schema.

    Tars from elsewhere, which `crossview index` made readable, are checked against index and
    sidecars, and their images are decoded.

    quick: only sizes, sidecars and hashes, nothing inside the tars. track(findings, number of
    shards): passes the findings on as they come, and may show how far the work is. Raises
    ShardError where there is no dataset at all.
    """
    problems: list[Problem] = []
    shards, expected, mend = _read_index(folder, problems)
    look = partial(look_at_shard, folder, expected=expected, quick=quick)
    findings = list(track(_each(look, shards, workers), len(shards)))
    problems += _exchanged_named(findings)
    problems += _foreign_files(folder, shards)
    problems += _duplicates(findings)
    if mend != MEND:  # tars from elsewhere: whatever is wrong, they are not ours to render
        problems = [replace(problem, mend=mend) for problem in problems]
    return Verdict(shards=tuple(shards), problems=tuple(problems))


def look_at_shard(
    folder: Path, entry: ShardEntry, *, expected: Expected, quick: bool
) -> ShardFindings:
    """Compare one shard with the index and its sidecar; unless quick, look into every pair."""
    path = folder / entry.name
    try:
        with local_copy(path) as tar:
            return _findings(tar, path, entry, expected, quick)
    except FileNotFoundError:
        problem = Problem(file=entry.name, what="missing")
    except (OSError, MachineError) as error:
        problem = Problem(file=entry.name, what=f"cannot be read: {error}")
    return ShardFindings(entry=entry, problems=(problem,))


def _findings(
    tar: Path, path: Path, entry: ShardEntry, expected: Expected, quick: bool
) -> ShardFindings:
    """Do the work of look_at_shard, given a copy of the tar on this machine."""
    sha256 = file_sha256(tar)
    of_tar = _tar_problems(tar, entry, sha256)
    try:
        sidecar = Sidecar.read(sidecar_path(path))
    except ShardError as error:
        what = str(error).removeprefix(f"{sidecar_path(path)}: ")
        of_sidecar = Problem(file=sidecar_path(path).name, what=what)
        return ShardFindings(entry=entry, problems=(of_sidecar, *of_tar), sha256=sha256)
    flaws = flaws_beside(tar, path, sidecar, sha256)
    problems = [*_disagreements(entry, sidecar, flaws, of_tar)]
    digests = []
    if not quick and not flaws:
        for key, members in _pairs(tar, sidecar):
            of_pair = (
                plain_flaws(key, members)
                if sidecar.is_plain and META not in members
                else pair_flaws(key, members, entry.scene, expected)
            )
            problems += [Problem(file=entry.name, what=w, mend=AS_WRITTEN) for w in of_pair]
            digests.append(_pair_digests(members))
    return ShardFindings(
        entry=entry,
        problems=tuple(problems),
        sha256=sha256,
        keys=() if sidecar.is_plain else tuple(sidecar.samples),
        digests=tuple(digests),
    )


def _tar_problems(tar: Path, entry: ShardEntry, sha256: str) -> list[Problem]:
    """Return in what a tar is not the one that the index lists: one problem, or none."""
    size_bytes = tar.stat().st_size
    if size_bytes != entry.size_bytes:
        what = f"{size_bytes} bytes, the index says {entry.size_bytes}"
    elif sha256 != entry.sha256:
        what = "its SHA-256 is not the one that the index lists"
    else:
        return []
    return [Problem(file=entry.name, what=what)]


def _disagreements(
    entry: ShardEntry, sidecar: Sidecar, flaws: list[str], of_tar: list[Problem]
) -> Iterator[Problem]:
    """Yield what is wrong with tar, sidecar and index: where two of them agree, with the third.

    flaws: of the sidecar, in which it disagrees with the tar. of_tar: in what the tar disagrees
    with the index.
    """
    sidecar_name = sidecar_path(Path(entry.name)).name
    if not flaws:
        if sidecar.entry != entry:
            what = f"does not list {entry.name} as its sidecar does: {_differences(entry, sidecar)}"
            yield Problem(file=INDEX_NAME, what=what)
    elif not of_tar:
        yield Problem(file=sidecar_name, what="; ".join(flaws))
    else:
        if sidecar.entry != entry:
            what = f"not the sidecar that the index lists: {_differences(entry, sidecar)}"
            yield Problem(file=sidecar_name, what=what)
        yield from of_tar


def _differences(entry: ShardEntry, sidecar: Sidecar) -> str:
    """Name the fields in which the index and a sidecar differ, as the index has them."""
    if sidecar.entry is None:
        return "no pairs"
    names = [
        n for n in entry.__dataclass_fields__ if getattr(entry, n) != getattr(sidecar.entry, n)
    ]
    return ", ".join(f"{n} {getattr(entry, n)!r}" for n in names)


def _pairs(tar: Path, sidecar: Sidecar) -> Iterator[tuple[str, dict[str, bytes]]]:
    """Yield the key of every pair, and its members by ending."""
    with open(tar, "rb") as stream:
        for key, places in sidecar.samples.items():
            members = {
                ending: os.pread(stream.fileno(), size, offset)
                for ending, (offset, size) in places.items()
            }
            yield key, members


def _read_index(folder: Path, problems: list[Problem]) -> tuple[list[ShardEntry], Expected, str]:
    """Return the shards to look at, what holds for each, and what to do about damaged ones.

    Adds what is wrong with the index.
    """
    if is_listed(folder) and not folder.is_dir():
        raise ShardError(f"{folder}: expected a dataset's folder, found none")
    try:
        index = ShardIndex.open(folder)
        recorded = read_json(folder / INDEX_NAME, "an index").get("num_pairs")
        expected = Expected.of_config(index.config)
        shards = [*index.shards]
        for entry in shards:
            if Path(entry.name).name != entry.name or not isinstance(entry.count, int):
                raise ShardError(f"it lists a shard {entry.name!r} with {entry.count!r} pairs")
    except (ShardError, AttributeError, TypeError) as error:
        found = list(_listed_by_sidecars(folder))
        if not found:
            raise
        what = str(error).removeprefix(f"{folder / INDEX_NAME}: ")
        problems.append(Problem(file=INDEX_NAME, what=what))
        entries = [sidecar.entry for sidecar in found if sidecar.entry]
        is_plain = all(sidecar.is_plain for sidecar in found)
        return entries, Expected(), INDEX_AGAIN if is_plain else MEND
    if recorded != index.num_pairs:
        what = f"num_pairs is {recorded}, its shards have {index.num_pairs}"
        problems.append(Problem(file=INDEX_NAME, what=what))
    problems += _config_flaws(folder, index.config)
    return shards, expected, index.mend


def _listed_by_sidecars(folder: Path) -> Iterator[Sidecar]:
    """Yield the sidecars of a folder's shards, each with the name of the tar beside it."""
    for path in sidecars_in(folder):
        try:
            sidecar = Sidecar.read(path)
        except ShardError:
            continue
        if sidecar.entry:
            entry = replace(sidecar.entry, name=f"{path.stem}.tar")
            yield replace(sidecar, entry=entry)


def _config_flaws(folder: Path, config: dict[str, Any]) -> Iterator[Problem]:
    """Compare the index's configuration with that of the run, if the dataset has that one too."""
    path = folder / CONFIG_NAME
    if not path.exists():
        return
    try:
        run = read_config(path)
    except ShardError as error:
        what = str(error).removeprefix(f"{path}: ")
        yield Problem(file=CONFIG_NAME, what=what)
        return
    differences = diff_plain({key: run.get(key) for key in config}, config)
    if differences:
        what = f"its configuration is not that of {CONFIG_NAME}: {'; '.join(differences)}"
        yield Problem(file=INDEX_NAME, what=what)


def _foreign_files(folder: Path, shards: Iterable[ShardEntry]) -> Iterator[Problem]:
    """Yield shards and sidecars that the index does not know, and leftover partial files.

    On a web server nothing is found: it need not say what files it has.
    """
    if not is_listed(folder):
        return
    listed = {entry.name for entry in shards}
    for path in sorted(folder.glob("*.tar")):
        if path.name not in listed:
            yield Problem(file=path.name, what="the index does not list it", mend=MOVE_AWAY)
    for path in sidecars_in(folder):
        tar = path.with_suffix(".tar")
        if tar.name in listed or tar.exists():
            continue
        try:
            sidecar = Sidecar.read(path)
            what = "; ".join(sidecar_flaws(tar, sidecar))
            if sidecar.entry:
                what = "a sidecar without its shard, and not in the index"
        except ShardError as error:
            what = str(error).removeprefix(f"{path}: ")
        if what:  # else of a task that found no pair: no tar, and nothing in the index
            yield Problem(file=path.name, what=what)
    for path in sorted(folder.glob(".*.partial")):
        what = "half-written: left by a run that was killed, or one that writes now"
        yield Problem(file=path.name, what=what)


def _duplicates(findings: list[ShardFindings]) -> Iterator[Problem]:
    """Yield keys that several pairs have, and pairs with the images or the poses of another."""
    names = ("images", "poses")
    first_keys: dict[str, str] = {}
    first_pairs: tuple[dict[bytes, str], ...] = ({}, {})
    for found in findings:
        file = found.entry.name
        for key in found.keys:
            if key in first_keys:
                what = f"{key}: also a key of {first_keys[key]}"
                yield Problem(file=file, what=what, mend=AS_WRITTEN)
            first_keys[key] = file
        for key, digests in zip(found.keys, found.digests):
            for name, digest, first in zip(names, digests, first_pairs):
                if digest in first:
                    what = f"{key}: the same {name} as {first[digest]}"
                    yield Problem(file=file, what=what, mend=AS_WRITTEN)
                first.setdefault(digest, key)


def _exchanged_named(findings: list[ShardFindings]) -> Iterator[Problem]:
    """Yield the problems of all shards; a tar that holds the bytes of another one is said to."""
    names = {found.entry.sha256: found.entry.name for found in findings}
    for found in findings:
        name = found.entry.name
        held = names.get(found.sha256, name)
        for problem in found.problems:
            if held != name and problem.file == name:
                problem = replace(problem, what=f"holds the bytes of {held}")
            yield problem


def _pair_digests(members: dict[str, bytes]) -> tuple[bytes, bytes]:
    """Return digests of a pair's images and poses that do not depend on the order of the views."""
    images = [members.get(name, b"") for name in VIEWS]
    try:
        meta = json.loads(members[META])
        poses = [json.dumps(meta[name]).encode() for name in POSES]
    except (ValueError, KeyError, TypeError):
        poses = [members.get(META, b"")]
    return _digest(images), _digest(poses)


def _digest(parts: list[bytes]) -> bytes:
    """Return a digest of parts that does not depend on their order."""
    digest = hashlib.sha256()
    for part in sorted(hashlib.sha256(part).digest() for part in parts):
        digest.update(part)
    return digest.digest()[:16]


def _each(
    look: Callable[[ShardEntry], ShardFindings], shards: list[ShardEntry], workers: int
) -> Iterator[ShardFindings]:
    """Look at every shard, in order, in as many processes."""
    require(workers >= 1, "workers", workers, "at least 1")
    workers = min(workers, len(shards))
    if workers == 1:
        yield from map(look, shards)
        return
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])  # numba and webdataset load once, not once a worker
    try:
        with ProcessPoolExecutor(workers, mp_context=context) as pool:
            yield from pool.map(look, shards)
    except BrokenProcessPool as error:
        raise ShardError(
            "a process that verified shards was killed, perhaps for want of memory; "
            "try fewer --workers"
        ) from error
