"""Reference -> source: adapters that answer "give me these bytes of that version"."""
