"""The node: uploads this machine's cache to peers, and tells the control plane what the cache holds."""
