"""Tests of sockets: real ones, on loopback."""
