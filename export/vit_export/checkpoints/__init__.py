"""A checkpoint as it was published: hubs, weight files, preprocessor, and what they come to."""
