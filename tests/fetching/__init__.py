"""Whole fetches, against origins of every temper."""
