"""A camera, and what it sees."""

from __future__ import annotations

from dataclasses import dataclass

from generation.geometry import Camera, Float32, UInt8


@dataclass(frozen=True, eq=False, kw_only=True)
class View:
    """What a camera sees."""

    camera: Camera
    """The camera that was asked for."""
    color: UInt8
    """(H, W, 3) RGB; black where nothing was hit."""
    depth_m: Float32
    """(H, W) along the optical axis; 0 where nothing was hit."""
