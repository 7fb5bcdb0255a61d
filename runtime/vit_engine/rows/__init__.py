"""What a run writes: rows in several formats, whole files, the contact sheet."""
