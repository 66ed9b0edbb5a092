"""How right a model is: metrics, verdicts and their rates, on datasets whose truth is known."""
