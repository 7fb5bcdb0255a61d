"""A small trained ViT in Hugging Face layout, with the scripts that drew and trained it."""
