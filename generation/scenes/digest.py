"""What a scene's file holds, in a few megabytes of reading: so that an edited scan is noticed."""

from __future__ import annotations

import hashlib
from pathlib import Path

from generation.scenes.mesh_files import stage_of
from generation.scenes.scene import SceneError
from generation.scenes.sources import SceneSource

_BLOCKS = 64
_BLOCK_BYTES = 1 << 16


def scene_digest(source: SceneSource) -> str:
    """Return a digest of a scene's mesh file and stage configuration; "" for a generated room.

    Of a mesh above 4 MiB it takes the size and 64 blocks spread over the file: all of a dataset of
    scans would take minutes to read, and an edit or another export changes sizes and offsets.
    A scene that cannot be read has a digest too; it fails when it is loaded.
    """
    if not source.path:
        return ""
    digest = hashlib.sha256()
    path = Path(source.path)
    try:
        stage = stage_of(path, source.up)
        digest.update(repr((stage.up, stage.front, stage.units_to_meters, stage.scale)).encode())
        size_bytes = stage.mesh_path.stat().st_size
        digest.update(str(size_bytes).encode())
        with open(stage.mesh_path, "rb") as stream:
            for block in range(_BLOCKS):
                stream.seek(block * max(_BLOCK_BYTES, (size_bytes - _BLOCK_BYTES) // (_BLOCKS - 1)))
                digest.update(stream.read(_BLOCK_BYTES))
    except (OSError, SceneError):
        return "unreadable"
    return digest.hexdigest()
