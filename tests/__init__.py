"""The tests mirror src/loom; `origins` holds the servers that they run against."""
