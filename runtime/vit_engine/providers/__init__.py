"""Where a model runs: one file for each provider, and what they share."""
