"""Turns a ViT classifier checkpoint into one verified, self-describing ONNX file."""

from vit_engine.cli import ending


def start() -> int:
    """Run vit-export; returns its exit code."""
    return ending.start("vit_export.cli")
