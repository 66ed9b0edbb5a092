"""How fast, how costly, and how right."""
