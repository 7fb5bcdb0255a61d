"""Turns a ViT classifier checkpoint into one verified, self-describing ONNX file."""

from vit_engine.cli import exit_codes


def start() -> int:
    """Run vit-export; returns its exit code."""
    return exit_codes.start("vit-export", "vit_export.cli")
