"""Datasets of pairs: made, made again, and what their folders say of them."""
