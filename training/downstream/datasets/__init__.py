"""Readers of public datasets in the layouts that their owners ship, and of our own shards."""
