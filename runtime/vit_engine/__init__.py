"""Labels images with a ViT classifier that `vit-export` wrote: NumPy, Pillow and ONNX Runtime."""
