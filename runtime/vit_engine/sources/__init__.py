"""From what a user names to single images and their bytes."""
