"""The networks, in plain torch: nothing of ours is imported here."""
