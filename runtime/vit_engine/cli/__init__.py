"""Command lines: their parser, signals, and how a command ends."""
