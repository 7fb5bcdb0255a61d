"""int8: which products, rounded how, after which images."""
