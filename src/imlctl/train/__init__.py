"""From photographs to weights: forgeries made on the fly, and the loop that learns them."""
