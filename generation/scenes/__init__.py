"""Scenes: meshes from files, and rooms that we generate."""
