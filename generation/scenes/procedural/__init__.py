"""Rooms that we generate: furnished, textured and lit from a seed."""

from generation.scenes.procedural.room import make_room

__all__ = ["make_room"]
