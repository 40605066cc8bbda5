"""What all readers share: a dataset's folder, its files, and complaints that say what to do."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from textwrap import dedent, indent
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from generation.errors import CrossviewError, first_few
from generation.geometry import Float64, Int32, UInt8
from training.downstream.example import Example, Splits

IMAGE_ENDINGS = (".jpg", ".jpeg", ".png")

Entry = TypeVar("Entry")


@dataclass(frozen=True, kw_only=True)
class Layout:
    """A dataset as its owners ship it, in words."""

    title: str
    """Its name."""
    url: str
    """The page of its owners where it is to be had."""
    licence: str
    """What they allow, in a few words."""
    drawing: str
    """How its folder looks, a path a line."""

    def error(self, root: Path, problem: str) -> CrossviewError:
        """Return the complaint about a folder that is not this dataset."""
        return CrossviewError(
            f"{root}: {problem}; found {_found(root)}\n"
            f"{self.title} is to be had from {self.url} ({self.licence}). Expected:\n"
            + indent(dedent(self.drawing).strip("\n"), "    ")
        )

    def require(self, root: Path, *names: str) -> None:
        """Raise CrossviewError unless root is a folder that has all these files and folders."""
        if not root.is_dir():
            raise self.error(root, "no such folder")
        missing = [name for name in names if not (root / name).exists()]
        if missing:
            raise self.error(root, f"there is no {first_few(missing)}")

    def require_files(self, root: Path, paths: Sequence[Path]) -> None:
        """Raise CrossviewError naming the files among paths, below root, that are not there."""
        if missing := [path for path in paths if not path.is_file()]:
            names = first_few(path.relative_to(root) for path in missing)
            raise self.error(root, f"{len(missing)} of {len(paths)} files are missing: {names}")


@dataclass(frozen=True)
class FromFiles(Generic[Entry]):
    """The examples of one split, each read by a function from its entry in a list."""

    entries: Sequence[Entry] | NDArray[Any]
    read: Callable[[Entry], Example]

    def __len__(self) -> int:
        return len(self.entries)

    def __getitem__(self, number: int) -> Example:
        return self.read(self.entries[number])


def splits(
    layout: Layout,
    root: Path,
    train: Sequence[Entry],
    val: Sequence[Entry],
    read: Callable[[Entry], Example],
) -> Splits:
    """Return both parts, read by the same function. Raises CrossviewError where one is empty."""
    for part, entries in (("train", train), ("validate", val)):
        if not entries:
            raise layout.error(root, f"nothing to {part} on")
    return Splits(train=FromFiles(train, read), val=FromFiles(val, read))


def _found(root: Path) -> str:
    if not root.exists():
        parent = next(folder for folder in root.absolute().parents if folder.exists())
        return f"only {parent}"
    if not root.is_dir():
        return "a file"
    return first_few(sorted(path.name for path in root.iterdir())) or "an empty folder"


def files_in(folder: Path, endings: Sequence[str] = IMAGE_ENDINGS) -> list[Path]:
    """Return the files of a folder with one of these endings (lower case), sorted by name.

    Hidden ones, such as macOS leaves behind, are not seen. Raises CrossviewError where there is
    no such folder.
    """
    if not folder.is_dir():
        raise CrossviewError(f"{folder}: no such folder; found {_found(folder)}")
    paths = (path for path in folder.iterdir() if not path.name.startswith("."))
    return sorted(path for path in paths if path.name.lower().endswith(tuple(endings)))


def folders_in(folder: Path) -> list[Path]:
    """Return the folders in a folder, sorted by name, without hidden ones."""
    paths = (path for path in folder.iterdir() if not path.name.startswith("."))
    return sorted(path for path in paths if path.is_dir())


def paired(folder: Path, kinds: Mapping[str, Iterable[str]]) -> list[str]:
    """Return the keys that all kinds of files have, sorted, where each has the same.

    kinds gives, for each kind of file ('image', 'depth'), a key of each file that is there. Raises
    CrossviewError naming the keys for which a file is missing, of the first kind that lacks any.
    """
    keys = {kind: set(some) for kind, some in kinds.items()}
    all_keys = set().union(*keys.values())
    for kind, some in keys.items():
        if missing := sorted(all_keys - some):
            raise CrossviewError(
                f"{folder}: no {kind} for {len(missing)} of {len(all_keys)}: {first_few(missing)}; "
                "unpack the dataset again, or remove the odd files"
            )
    return sorted(all_keys)


def require_one_size(maps: Mapping[Path, NDArray[Any]]) -> None:
    """Raise CrossviewError unless (H, W, ...) images and maps, by their files, have one size."""
    (first, size), *others = ((path, values.shape[:2]) for path, values in maps.items())
    for path, other in others:
        if other != size:
            raise CrossviewError(
                f"{path}: {other[0]} x {other[1]} pixels, but {first}: {size[0]} x {size[1]}; "
                "files that belong together must have one size"
            )


def read_rgb(path: Path) -> UInt8:
    """Read an image file as (H, W, 3) sRGB bytes, whatever its colours are stored as.

    Raises CrossviewError where the file is missing or damaged.
    """
    return _decoded(path, lambda image: np.array(image.convert("RGB")))


def read_integers(path: Path) -> Int32:
    """Read a grey image file's 8- or 16-bit numbers (of a palette: the indices) as (H, W).

    Raises CrossviewError where the file is missing or damaged, or is not grey.
    """
    channels = read_channels(path)
    if channels.shape[2] != 1:
        raise CrossviewError(f"{path}: {channels.shape[2]} channels a pixel; expected one number")
    return channels[..., 0].astype(np.int32)


def read_channels(path: Path) -> NDArray[Any]:
    """Read an image file's numbers as they are stored: (H, W, C) uint8, or (H, W, 1) uint16.

    Raises CrossviewError where the file is missing or damaged.
    """
    numbers = _decoded(path, lambda image: np.array(image))
    return numbers.reshape(*numbers.shape[:2], -1)


Decoded = TypeVar("Decoded")


def _decoded(path: Path, take: Callable[[Image.Image], Decoded]) -> Decoded:
    try:
        with Image.open(path) as image:
            return take(image)
    except FileNotFoundError:
        raise CrossviewError(f"{path}: no such file; unpack the dataset again") from None
    except (
        EOFError,
        Image.DecompressionBombError,
        NotImplementedError,
        OSError,
        SyntaxError,
        ValueError,
    ) as error:
        raise CrossviewError(
            f"{path}: not a whole image ({error}); fetch or unpack it again"
        ) from error


def read_matrix(path: Path, shape: tuple[int, int]) -> Float64:
    """Read a matrix of numbers in a text file, a row a line.

    Raises CrossviewError where the file is missing, no matrix, or of another shape.
    """
    try:
        rows = [line.split() for line in path.read_text("ascii").splitlines() if line.strip()]
        matrix = np.array(rows, np.float64, ndmin=2)
    except FileNotFoundError:
        raise CrossviewError(f"{path}: no such file; unpack the dataset again") from None
    except (OSError, ValueError) as error:
        raise CrossviewError(f"{path}: not a matrix of numbers ({error})") from error
    if matrix.shape != shape:
        found = " x ".join(map(str, matrix.shape))
        raise CrossviewError(f"{path}: {found} numbers; expected {shape[0]} x {shape[1]}")
    return matrix
