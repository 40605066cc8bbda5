"""What a dataset's folder holds, byte by byte."""

import hashlib
from pathlib import Path


def digests(folder: Path, pattern: str = "*") -> dict[str, str]:
    """Return the digest of every file that a dataset consists of, or of those of a pattern."""
    return {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.glob(pattern))
        if path.name not in (".lock", "runs.jsonl")
    }
