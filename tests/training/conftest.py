"""One thread: the suite shares its machine, and equal losses need equal sums."""

import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))  # for synthetic.py; tests/ is no package
torch.set_num_threads(1)


@pytest.fixture(scope="session")
def dataset(tmp_path_factory):
    """Four scenes of twelve 36 x 36 plane pairs in one shard each, with depth."""
    from synthetic import write_dataset

    return write_dataset(tmp_path_factory.mktemp("dataset"))
