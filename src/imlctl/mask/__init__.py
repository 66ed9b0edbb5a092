"""From a probability map to a verdict, regions and pictures of them."""
