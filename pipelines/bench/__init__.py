"""Measurements of speed: of pairs, of the data path, of pre-training."""
