"""Past one machine: Ray Data."""
