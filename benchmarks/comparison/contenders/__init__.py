"""One file a contender; entries.py says who takes part and where."""
