"""The command lines: arguments, progress, exit codes. Nothing imports a command."""
