"""Loom: get model weights into a container that starts cold, fast and dependably.

    import loom
    receipt = loom.fetch("https://host/model.gguf", out="model.gguf", workers=16)

Names are loaded at their first use (PEP 562), so `import loom` costs next to nothing.
"""

from __future__ import annotations

TYPE_CHECKING = False  # as type checkers take it; importing typing costs 10 ms
if TYPE_CHECKING:
    from loom.api import Session as Session
    from loom.api import fetch as fetch
    from loom.api import fetch_async as fetch_async
    from loom.core.options import Options as Options
    from loom.core.receipt import ModelReceipt as ModelReceipt
    from loom.core.receipt import Progress as Progress
    from loom.core.receipt import Receipt as Receipt
    from loom.errors import AccessDenied as AccessDenied
    from loom.errors import Cancelled as Cancelled
    from loom.errors import Incomplete as Incomplete
    from loom.errors import IntegrityError as IntegrityError
    from loom.errors import Interrupted as Interrupted
    from loom.errors import LoomError as LoomError
    from loom.errors import NotCached as NotCached
    from loom.errors import NotFound as NotFound
    from loom.errors import OriginChanged as OriginChanged
    from loom.errors import OriginError as OriginError
    from loom.errors import OriginThrottled as OriginThrottled
    from loom.errors import OriginUnreachable as OriginUnreachable
    from loom.errors import RegistryError as RegistryError
    from loom.errors import RegistryFull as RegistryFull
    from loom.errors import RegistryUnavailable as RegistryUnavailable
    from loom.errors import StoreError as StoreError
    from loom.errors import StoreFull as StoreFull
    from loom.errors import UsageError as UsageError

__version__ = "0.1.0"

_HOMES = {
    "fetch": "loom.api",
    "fetch_async": "loom.api",
    "Session": "loom.api",
    "Options": "loom.core.options",
    "ModelReceipt": "loom.core.receipt",
    "Progress": "loom.core.receipt",
    "Receipt": "loom.core.receipt",
    "AccessDenied": "loom.errors",
    "Cancelled": "loom.errors",
    "Incomplete": "loom.errors",
    "IntegrityError": "loom.errors",
    "Interrupted": "loom.errors",
    "LoomError": "loom.errors",
    "NotCached": "loom.errors",
    "NotFound": "loom.errors",
    "OriginChanged": "loom.errors",
    "OriginError": "loom.errors",
    "OriginThrottled": "loom.errors",
    "OriginUnreachable": "loom.errors",
    "RegistryError": "loom.errors",
    "RegistryFull": "loom.errors",
    "RegistryUnavailable": "loom.errors",
    "StoreError": "loom.errors",
    "StoreFull": "loom.errors",
    "UsageError": "loom.errors",
}

__all__ = ["__version__", *_HOMES]


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'loom' has no attribute {name!r}")
    from importlib import import_module

    value: object = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
