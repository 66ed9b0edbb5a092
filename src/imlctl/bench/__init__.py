"""Measurements of speed, cost and accuracy, and the pages that show them."""
