"""Files that hold files: which members they have, and their bytes, within limits."""
