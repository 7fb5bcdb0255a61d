"""How right the labels of a run are, and how far another model is from them."""
