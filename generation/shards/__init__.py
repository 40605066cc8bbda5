"""Shards: WebDataset tars of pairs, their sidecars and their index."""
