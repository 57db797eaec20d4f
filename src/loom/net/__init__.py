"""Sockets: connect, TLS, proxies, pools, response heads, and pouring a body into a file.

It knows HTTP/1.1's framing. It knows no digests, no chunks and no retries.
"""
