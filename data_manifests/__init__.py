"""Scene sets, overlap levels and recipes: YAML, no code."""
