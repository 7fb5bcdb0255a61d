"""What a checkpoint's config files mean: its labels and scores, and its preprocessing."""
