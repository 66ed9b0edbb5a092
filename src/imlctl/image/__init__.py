"""From the bytes of a file to tensors, and the exact way back."""
