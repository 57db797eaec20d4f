"""Tests of what is handed to peers."""
