"""Sockets: connect, TLS, proxies, pools, response heads, and pouring a body into a file.

It knows HTTP/1.1's framing and nothing of what the bytes mean: no digests, no chunks, no retries.
"""
