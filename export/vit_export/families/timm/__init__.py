"""The families of the library timm: its config.json, and its names of tensors."""
