"""Forgeries made on the fly: photographs, edits, and the histories that betray them."""
