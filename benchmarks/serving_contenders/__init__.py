"""Servers of the same artefact that people would write or take instead of vit-serve."""
