"""Contract suites of the ports, and doubles that keep them: for the tests of every adapter."""
