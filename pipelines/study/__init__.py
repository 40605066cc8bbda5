"""Studies: what one says is to be run, the runs, and what came out."""
