"""Renderers: a camera in, colour and depth out."""
