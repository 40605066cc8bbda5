"""Datasets that several tests of tasks train and judge on."""

import pytest
from micro_pairs import write_rooms
from tiny_layouts import LAYOUTS

from training.downstream.datasets.shards import open_shards
from training.downstream.tasks import TASKS


@pytest.fixture(scope="session")
def opened(dataset, tmp_path_factory):
    """Return a function that opens the dataset of a task and layout, which is written once."""
    folders = {}

    def open_layout(task, layout):
        write = LAYOUTS[task].get(layout)
        if layout == "shards":
            folder = dataset
        elif write in folders:
            folder = folders[write]
        else:
            folder = folders[write] = tmp_path_factory.mktemp(write.__name__)
            write(folder)
        return TASKS[task].datasets[layout](folder)

    return open_layout


@pytest.fixture(scope="session")
def rooms(tmp_path_factory):
    """Examples of two furnished rooms, 64 x 64 pixels."""
    splits = open_shards(write_rooms(tmp_path_factory.mktemp("rooms"), num_pairs=4, size=64))
    return [part[n] for part in (splits.train, splits.val) for n in range(len(part))]
