"""What a model gives: scores, predictions, and how far two outputs may differ."""
