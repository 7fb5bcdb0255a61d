"""What lies in a checkpoint's folder: JSON, weights, and what people have in their place."""
