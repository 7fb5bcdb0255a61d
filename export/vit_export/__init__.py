"""Turns a ViT classifier checkpoint into one verified, self-describing ONNX file."""
