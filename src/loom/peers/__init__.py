"""The protocol between nodes: both ends of the wire (wire, source, face), and the files that are handed out (shelf)."""
