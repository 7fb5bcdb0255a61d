"""A checkpoint's tensors: out of its files, under canonical names, as the graph takes them."""
