"""Texts as the libraries' two-tower models take them."""
