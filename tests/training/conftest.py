"""One thread: the suite shares its machine, and equal losses need equal sums."""

import pytest
import torch

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def dataset(tmp_path_factory):
    """Four scenes of twelve 36 x 36 plane pairs in one shard each, with depth."""
    from synthetic import write_dataset

    return write_dataset(tmp_path_factory.mktemp("dataset"))
