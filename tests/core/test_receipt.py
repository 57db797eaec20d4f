"""What a fetch reports."""

from __future__ import annotations

import json
from dataclasses import fields

from loom.core.receipt import Receipt

RECEIPT = Receipt(
    "https://h/x", "/x", 3, 1.0, 3.0, 1, 0, 1, True, {"origin": 3}, 0, "fetched", None, '"etag"',
    "copy", "hard link: another device", ("odd", "but fine"),
)  # fmt: skip


def test_a_receipt_is_plain_json() -> None:
    """Every field stands in the JSON, with plain values, in the order in which they are documented."""
    told = json.loads(json.dumps(RECEIPT.to_dict()))
    assert list(told) == [field.name for field in fields(Receipt)]
    assert (told["sources"], told["warnings"], told["digest"]) == ({"origin": 3}, ["odd", "but fine"], None)
