"""A dataset, looked at: its pairs, their numbers, its scenes from above."""
