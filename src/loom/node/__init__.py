"""The node: uploads this machine's cache to peers, and lists it at the control plane."""
