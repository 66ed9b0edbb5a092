"""Accuracy on datasets whose truth is known: metrics, verdicts and their rates."""
