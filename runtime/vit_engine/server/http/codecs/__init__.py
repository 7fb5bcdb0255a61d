"""What is said over HTTP: bodies to images or tensors, logits to answers."""
