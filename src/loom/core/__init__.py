"""Pure values and decisions: no I/O, no clock, no randomness, no sockets, no paths on disk."""
