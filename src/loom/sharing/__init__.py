"""What a node hands to its peers: files that are here, or on their way here, over HTTP with ranges."""
