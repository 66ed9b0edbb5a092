"""Weights: from their names to files that are checked and read safely."""
