"""The control plane: what is answered, who may ask, and the ledgers that keep it. aiohttp translates; no rules here."""
