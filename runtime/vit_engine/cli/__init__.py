"""What all command lines share: their parser, signals, and how a command ends."""
