"""The command line: one table of flags, settings resolved from it, commands, and their output."""
