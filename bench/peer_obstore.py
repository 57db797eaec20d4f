"""Fetch URL to PATH with obstore: 16 tasks, each asking for a range of 10 MB and writing it in its place."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Iterator
from urllib.parse import urlsplit

from obstore.store import HTTPStore

CHUNK = 10_000_000


async def fetch(url: str, out: str) -> None:
    parts = urlsplit(url)
    store = HTTPStore.from_url(f"{parts.scheme}://{parts.netloc}", client_options={"allow_http": True})
    path = parts.path.lstrip("/")
    size = (await store.head_async(path))["size"]
    file = os.open(out, os.O_CREAT | os.O_WRONLY, 0o644)
    starts = iter(range(0, size, CHUNK))
    await asyncio.gather(*(worker(store, path, size, file, starts) for _ in range(16)))


async def worker(store: HTTPStore, path: str, size: int, file: int, starts: Iterator[int]) -> None:
    for start in starts:  # shared: each start is taken once
        data = await store.get_range_async(path, start=start, end=min(start + CHUNK, size))
        await asyncio.to_thread(os.pwrite, file, data, start)


asyncio.run(fetch(sys.argv[1], sys.argv[2]))
