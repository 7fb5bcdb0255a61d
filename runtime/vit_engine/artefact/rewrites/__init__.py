"""A graph as one provider runs it fastest, rewritten as it is loaded; the file stays as it is."""
