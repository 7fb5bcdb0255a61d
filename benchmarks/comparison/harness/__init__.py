"""Processes that take turns, and what they are asked."""
