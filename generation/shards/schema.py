"""The shard format: names, sidecars and the index, as they lie on disk.

A dataset is a folder of WebDataset tars. Beside each ``NAME.tar`` lies ``NAME.json``, its sidecar,
written last: a tar without one does not exist for any reader. ``index.json`` collects the sidecars.
A sample holds ``KEY.view1.jpg``, ``KEY.view2.jpg``, ``KEY.meta.json`` and, if depth was asked for,
``KEY.depth1.png`` and ``KEY.depth2.png`` (16 bit, millimetres, 0 where nothing was hit).
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from itertools import chain, pairwise
from pathlib import Path
from typing import Any

from generation.errors import CrossviewError
from generation.files import write_text_whole
from generation.locations import contents, is_listed

SCHEMA_VERSION = 2
INDEX_NAME = "index.json"
CONFIG_NAME = "config.json"
"""What the run was asked for; a dataset may come without it."""
REGENERATED_NAME = "regenerate.json"
"""How pairs that were rendered again agree with those that were recorded."""

VIEWS = ("view1.jpg", "view2.jpg")
DEPTHS = ("depth1.png", "depth2.png")
META = "meta.json"


MEND = "render again with the same command and --verify, which makes damaged shards anew"
"""What to do about a shard that is not what was written."""
INDEX_AGAIN = (
    f"fetch the tars in question again, remove {INDEX_NAME} and run `crossview index` once more"
)
"""What to do about a tar from elsewhere that is not what was indexed."""


class ShardError(CrossviewError):
    """A shard, sidecar or index that is missing, damaged or not ours."""


@dataclass(frozen=True, kw_only=True)
class ShardEntry:
    """What the index knows of one shard."""

    name: str
    """File name of the tar, relative to the dataset's folder."""
    scene: str
    """The one scene that all of its pairs show."""
    count: int
    """Number of pairs, at least 1."""
    size_bytes: int
    """Size of the tar."""
    sha256: str
    """Of the tar's bytes."""

    def __post_init__(self) -> None:
        texts, numbers = (self.name, self.scene, self.sha256), (self.count, self.size_bytes)
        if not all(isinstance(each, str) for each in texts):
            raise TypeError(f"name, scene and sha256 are {texts}, not three texts")
        if not all(isinstance(each, int) for each in numbers):
            raise TypeError(f"count and size_bytes are {numbers}, not two whole numbers")
        if self.count < 1:
            raise ValueError(f"count is {self.count}, not at least 1")


@dataclass(frozen=True, kw_only=True)
class Sidecar:
    """Everything about one shard that a reader or a resumed run asks for."""

    entry: ShardEntry | None
    """None where the task found no pair at all; then there is no tar either."""
    task: dict[str, Any]
    """The task that made it, as plain values; a re-run compares this."""
    samples: dict[str, dict[str, tuple[int, int]]]
    """Key -> member ending -> (offset of its first byte in the tar, size in bytes)."""
    attempts: int
    """Proposals judged: accepted pairs and rejections add up to this."""
    rejections: dict[str, int]
    """Reason -> number of proposals."""
    device: str = ""
    """What really rendered it, as the renderer's driver names it."""
    shortfall: str = ""
    """Why the shard holds fewer pairs than were asked for; empty where it does not."""

    @property
    def is_plain(self) -> bool:
        """Whether `crossview index` made it: nothing is known of what made the tar."""
        return self.entry is not None and not self.task

    def to_json(self) -> str:
        """Return the sidecar's text: the same bytes for the same shard."""
        return json.dumps({"schema_version": SCHEMA_VERSION, **asdict(self)}, indent=1) + "\n"

    def write(self, shard_path: Path) -> None:
        """Write it, whole, to where the sidecar of a tar lies."""
        write_text_whole(sidecar_path(shard_path), self.to_json())

    @classmethod
    def read(cls, path: Path) -> Sidecar:
        """Read a sidecar.

        Raises ShardError where it is missing, not one of this schema, or its samples cannot be
        those of its tar.
        """
        raw = read_json(path, "a shard's sidecar")
        try:
            entry = raw["entry"]
            sidecar = cls(
                entry=ShardEntry(**entry) if entry else None,
                task=raw["task"],
                samples={
                    key: {ending: (int(o), int(s)) for ending, (o, s) in members.items()}
                    for key, members in raw["samples"].items()
                },
                attempts=int(raw["attempts"]),
                rejections={reason: int(count) for reason, count in raw["rejections"].items()},
                device=raw["device"],
                shortfall=raw["shortfall"],
            )
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise ShardError(f"{path}: not a shard's sidecar ({error!r})") from error
        if not sidecar._fits_its_tar():
            raise ShardError(f"{path}: it lists other samples than its tar holds")
        return sidecar

    def _fits_its_tar(self) -> bool:
        """Say whether as many samples are listed as there are pairs, apart and within the tar."""
        count, size_bytes = (self.entry.count, self.entry.size_bytes) if self.entry else (0, 0)
        places = sorted(chain(*(members.values() for members in self.samples.values())))
        bounds = [0, *chain(*((at, at + size) for at, size in places)), size_bytes]
        return len(self.samples) == count and all(low <= high for low, high in pairwise(bounds))


def read_json(path: Path, what: str) -> dict[str, Any]:
    """Read a JSON object of this schema's version. Raises ShardError, naming what was expected.

    Raises CrossviewError where it is a URL's, whose store does not answer.
    """
    try:
        raw = json.loads(contents(path))
    except FileNotFoundError:
        raise ShardError(f"{path}: expected {what}, found no such file") from None
    except CrossviewError:  # a ValueError too, that says nothing of the file
        raise
    except (OSError, RecursionError, ValueError) as error:  # of UTF-8, of JSON, of huge numbers
        raise ShardError(f"{path}: expected {what}, found {error}") from error
    version = raw.get("schema_version") if isinstance(raw, dict) else None
    if version != SCHEMA_VERSION:
        raise ShardError(
            f"{path}: expected {what} of schema version {SCHEMA_VERSION}, found version {version}"
        )
    return dict(raw)


def read_config(path: Path) -> dict[str, Any]:
    """Read the configuration of the run that made a dataset. Raises ShardError."""
    config = read_json(path, "the configuration of a run").get("config")
    if not isinstance(config, dict):
        raise ShardError(f"{path}: it holds no configuration")
    return config


def sidecars_in(folder: Path) -> list[Path]:
    """Return the files that may be sidecars in a dataset's folder; none of a web server's."""
    others = {INDEX_NAME, CONFIG_NAME, REGENERATED_NAME}
    files = folder.glob("*.json") if is_listed(folder) else ()
    return sorted(path for path in files if path.name not in others)


def sidecar_path(shard_path: Path) -> Path:
    """Return where the sidecar of a tar lies."""
    return shard_path.with_suffix(".json")
