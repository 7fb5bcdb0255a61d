"""Past one machine: Ray Data, the manifest of a run, and its tasks on the nodes."""
