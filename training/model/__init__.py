"""CroCo: patches, positions, blocks, heads."""
