"""From what a user names to images and their bytes: files, tars, tables, URLs, stores."""
