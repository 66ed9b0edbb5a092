"""Datasets as files: manifests, the layouts that datasets are distributed in, and their checks."""
