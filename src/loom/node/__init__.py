"""The node: hands out this machine's cache, and tells the control plane so."""
