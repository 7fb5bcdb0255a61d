"""What the command lines take, one file each, and what they share."""
