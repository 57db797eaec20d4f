"""Ledgers, which put changes into one order and keep them: the port (ledger), SQLite and Redis."""
