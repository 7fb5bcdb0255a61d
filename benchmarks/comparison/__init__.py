"""The comparison of vit-engine with its peers: measure.py is a run, report tells it."""
