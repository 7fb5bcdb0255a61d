"""The server behind its HTTP: scheduling, admission, metrics."""
