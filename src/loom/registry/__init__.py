"""Who holds what: ledgers (SQLite, Redis) behind one port, the registry over them, the control plane's client."""
