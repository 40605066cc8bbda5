"""Pre-training as commands do it: here, in several processes, on a Ray cluster."""
