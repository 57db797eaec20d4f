"""The control plane: its HTTP API, access rules, page, metrics and ledgers. The rules of the fleet are in loom.core."""
