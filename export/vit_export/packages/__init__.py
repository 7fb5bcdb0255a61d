"""The libraries whose checkpoints are exported: what each reads of a folder, and its own model."""
