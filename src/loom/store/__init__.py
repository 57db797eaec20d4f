"""Files: the only code that writes them. Stage, verify, publish: a final name never has a partial file."""
