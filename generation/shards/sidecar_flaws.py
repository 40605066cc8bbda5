"""In what the sidecar of a shard can disagree with its tar, or with itself."""

from __future__ import annotations

import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from generation.errors import CrossviewError, MachineError
from generation.files import file_sha256
from generation.locations import contents, filesystem, is_remote
from generation.retries import retried
from generation.shards.plain_tars import plain_contents
from generation.shards.schema import ShardEntry, Sidecar, sidecar_path
from generation.shards.writer import member_places


@contextmanager
def local_copy(path: Path) -> Iterator[Path]:
    """Yield a file on this machine with a location's bytes: itself, or a copy for a while."""
    if not is_remote(path):
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="crossview-") as folder:
        copy = Path(folder) / path.name
        store, key = filesystem(path)
        retried(lambda: store.get_file(key, str(copy)), str(path))
        yield copy


def sidecar_flaws(path: Path, sidecar: Sidecar) -> list[str]:
    """Say in what a shard's sidecar disagrees with its tar or with itself; empty: in nothing.

    path: of the tar. Raises OSError where it is there and cannot be read, MachineError where a
    store does not answer.
    """
    try:
        with local_copy(path) as tar:
            return flaws_beside(tar, path, sidecar, file_sha256(tar))
    except FileNotFoundError:
        return [f"{path.name} is missing"] if sidecar.entry else flaws_beside(None, path, sidecar)


def flaws_beside(tar: Path | None, path: Path, sidecar: Sidecar, sha256: str = "") -> list[str]:
    """Do the work of sidecar_flaws, given the tar's copy on this machine, if there is one.

    sha256: of the copy's bytes.
    """
    try:
        of_tar = _tar_flaws(tar, sidecar, sha256) if tar else ()
        return [*_text_flaws(path, sidecar), *of_tar]
    except MachineError:  # a ValueError too, that says nothing of the shard
        raise
    except (AttributeError, TypeError, ValueError) as error:
        return [f"it is not as the schema says ({error!r})"]


def _text_flaws(path: Path, sidecar: Sidecar) -> Iterator[str]:
    """Yield in what a sidecar disagrees with itself."""
    if contents(sidecar_path(path)).decode() != sidecar.to_json():
        yield "its text is not as it was written"
    if sidecar.is_plain:
        return
    count = sidecar.entry.count if sidecar.entry else 0
    num_rejected = sum(sidecar.rejections.values())
    if sidecar.attempts != count + num_rejected:
        yield f"{sidecar.attempts} proposals are not {count} pairs and {num_rejected} rejections"


def _tar_flaws(tar: Path, sidecar: Sidecar, sha256: str) -> Iterator[str]:
    """Yield in what a sidecar disagrees with its tar."""
    entry = sidecar.entry
    if entry is None:
        yield f"it says that there is no {tar.name}"
    elif entry.name != tar.name:
        yield f"it is that of {entry.name}"
    elif tar.stat().st_size != entry.size_bytes or sha256 != entry.sha256:
        yield f"the bytes of {tar.name} have another size or SHA-256"
    else:
        yield from _member_flaws(tar, sidecar, entry)


def _member_flaws(path: Path, sidecar: Sidecar, entry: ShardEntry) -> Iterator[str]:
    """Yield in what a sidecar disagrees with what its tar holds."""
    try:
        if sidecar.is_plain:
            scene, places = plain_contents(path)
            of_scene = scene == entry.scene
        else:
            places = member_places(path)
            of_scene = all(key.startswith(f"{entry.scene}-") for key in places)
    except (tarfile.TarError, CrossviewError) as error:
        yield f"{path.name} is not a tar ({error})"
        return
    if list(places) != list(sidecar.samples):
        yield f"its keys are not those of {path.name}"
    elif places != sidecar.samples:
        yield f"its member offsets are not those of {path.name}"
    if len(places) != entry.count:
        yield f"it counts {entry.count} pairs, {path.name} holds {len(places)}"
    if not of_scene:
        yield f"it names scene {entry.scene!r}, its keys another one"
