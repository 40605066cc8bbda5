"""The numbers of a dataset's pairs, as columns: from their meta.json alone, no image is read."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from generation.geometry import Float64
from generation.locations import is_remote
from generation.shards.reader import ShardIndex, ShardReader, read_each
from generation.shards.schema import META

REMOTE_ROWS = 4000
"""Most pairs read of a dataset behind a URL, where each is a request of its own."""


@dataclass(frozen=True, eq=False, kw_only=True)
class PairTable:
    """One row a pair, in the index's order."""

    index: ShardIndex
    """The dataset's."""
    positions: NDArray[np.int64]
    """(N,) number of each pair in the whole dataset."""
    scenes: NDArray[np.int64]
    """(N,) place of its scene in index.scenes."""
    covisibility: Float64
    """(N,) 0 to 1."""
    official: Float64
    """(N,) CroCo's published number, 0 to 1."""
    centres: Float64
    """(N, 2, 3) of both cameras, metres."""
    forwards: Float64
    """(N, 2, 3) unit vectors along both optical axes."""

    @classmethod
    def read(cls, index: ShardIndex, max_rows: int | None = None) -> PairTable:
        """Read all pairs, or at most max_rows of them, evenly spread over the dataset.

        Of a dataset behind a URL at most REMOTE_ROWS. Raises ShardError where a shard is not what
        the index lists, or a record is damaged.
        """
        count = min(index.num_pairs, max_rows or index.num_pairs)
        if is_remote(index.folder):
            count = min(count, REMOTE_ROWS)
        positions = np.linspace(0, index.num_pairs - 1, count).round().astype(np.int64)
        scene_numbers = {scene: number for number, scene in enumerate(index.scenes)}
        of_shards = np.array([scene_numbers[entry.scene] for entry in index.shards])
        numbers = np.empty((count, 2))
        poses = np.empty((count, 2, 4, 4))
        reader = ShardReader(index)
        for row, record in enumerate(read_each(reader.record, positions.tolist())):
            try:
                numbers[row] = record["covisibility"], record["covisibility_official"]
                poses[row] = record["world_from_camera1"], record["world_from_camera2"]
            except (KeyError, TypeError, ValueError) as error:
                raise reader.damaged(int(positions[row]), META, repr(error)) from error
        return cls(
            index=index,
            positions=positions,
            scenes=of_shards[index.shards_of(positions)],
            covisibility=numbers[:, 0],
            official=numbers[:, 1],
            centres=poses[:, :, :3, 3],
            forwards=poses[:, :, :3, 2],
        )

    def __len__(self) -> int:
        return len(self.positions)

    @property
    def is_sample(self) -> bool:
        """Whether the dataset has more pairs than the table has rows."""
        return len(self) < self.index.num_pairs

    @cached_property
    def baseline_m(self) -> Float64:
        """(N,) distance between the cameras of each pair."""
        return np.sqrt(((self.centres[:, 0] - self.centres[:, 1]) ** 2).sum(axis=1))

    @cached_property
    def angle_deg(self) -> Float64:
        """(N,) angle between the optical axes of each pair."""
        cosine = (self.forwards[:, 0] * self.forwards[:, 1]).sum(axis=1)
        return np.degrees(np.arccos(np.clip(cosine, -1, 1)))

    def rows_of_scene(self, number: int) -> NDArray[np.int64]:
        """Return the rows of scene number `number` of the index, by rising co-visibility."""
        rows = np.flatnonzero(self.scenes == number)
        return rows[np.argsort(self.covisibility[rows], kind="stable")]
