"""The peers' protocol: both ends of the wire (wire, source, face), and the files that a process offers (shelf)."""
