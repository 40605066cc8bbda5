"""Pre-train CroCo on shards of pairs, and see what it learnt."""
