"""Tests of the pure core: no sockets, no files, no clock."""
