"""The families of the library transformers: its config.json, and its names of tensors."""
