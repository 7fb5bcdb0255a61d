"""A `ModelConfig` and its tensors as ONNX modules: all numerics of the artefact.

The modules read as a PyTorch ViT; each `forward` emits nodes. Weights are widened to float64,
folded, and rounded once to the artefact's precision.
"""
