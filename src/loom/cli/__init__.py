"""The command line: one table of flags, settings resolved from it, commands, and what they print."""
