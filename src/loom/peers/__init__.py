"""The protocol between nodes: both ends of the wire (wire, source, server), and what is handed out (shelf)."""
