"""Servers on loopback to fetch from: hostile ones (fault), proxies, dead addresses, and real nginx. Free of pytest."""
