"""What a dataset's folder holds, byte by byte."""

import hashlib
from pathlib import Path


def digests(folder: Path) -> dict[str, str]:
    """Return the digest of every file that a dataset consists of, half-written ones too."""
    return {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.iterdir())
        if path.name not in (".lock", "runs.jsonl")
    }
