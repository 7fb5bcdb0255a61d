"""Images to calibrate on and to compare with PyTorch on: a user's, or drawn ones."""
