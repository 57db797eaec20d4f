"""What a node or a fetch says to a control plane, over HTTP."""
