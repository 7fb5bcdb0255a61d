"""Engines in processes of their own, and the event loop's end of each."""
