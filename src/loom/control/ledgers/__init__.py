"""Ledgers: what puts changes into one order and keeps them; the port (ledger), SQLite and Redis."""
