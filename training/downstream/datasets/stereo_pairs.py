"""What Middlebury v3 and ETH3D share: a folder a scene, with the same files in it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from training.downstream.datasets.folder import read_rgb, require_one_size
from training.downstream.datasets.formats import read_pfm_disparity
from training.downstream.example import Example

IMAGES = ("im0.png", "im1.png")
TRUTHS = ("disp0GT.pfm", "mask0nocc.png")


def read_scene(name: str, images: Path, truths: Path) -> Example:
    """Read the stereo pair of a folder of IMAGES and one of TRUTHS, which may be the same.

    The mask is 255 where both cameras see a point; elsewhere it is occluded, or unknown.
    """
    left, right = (images / file for file in IMAGES)
    disparity, mask = (truths / file for file in TRUTHS)
    maps: dict[Path, NDArray[Any]] = {
        left: read_rgb(left),
        right: read_rgb(right),
        disparity: read_pfm_disparity(disparity),
        mask: read_rgb(mask),
    }
    require_one_size(maps)
    known = np.isfinite(maps[disparity])
    return Example(
        name=name,
        images=(maps[left], maps[right]),
        truth={
            "disparity": maps[disparity],
            "occluded": known & (maps[mask] != 255).any(-1),
        },
    )
