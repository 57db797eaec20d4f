"""Files: the only code that writes them. Stage, verify, publish; nothing partial ever stands under a final name."""
