"""What a name of weights stands for, and reading them safely."""
