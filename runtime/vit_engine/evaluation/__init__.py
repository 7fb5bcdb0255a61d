"""How right a model is on images whose truth is known, and how far another model is from it."""
