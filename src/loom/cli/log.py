"""`--verbose`: the records of the logger "loom", as lines on stderr."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from loom.cli.output import Talk


def tell_log(talk: Talk) -> None:
    """Print every record from now on; warnings aside, which are told with the receipt."""
    logger = logging.getLogger("loom")
    logger.setLevel(logging.DEBUG)
    logger.addHandler(_TalkHandler(talk))


class _TalkHandler(logging.Handler):
    def __init__(self, talk: Talk) -> None:
        super().__init__()
        self._talk = talk

    def emit(self, record: logging.LogRecord) -> None:
        if record.levelno < logging.WARNING:
            self._talk.tell(record.getMessage())
