"""The client of a control plane, for nodes and fetches, over HTTP."""
