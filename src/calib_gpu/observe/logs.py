"""Log lines on standard error, as text or as one JSON object a line."""

from __future__ import annotations

import contextlib
import json
import logging
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Final

FORMATS: Final = ("text", "json")


class TextLines(logging.Formatter):
    """Time (UTC), level, message."""

    converter = staticmethod(time.gmtime)

    def __init__(self) -> None:
        super().__init__("%(asctime)sZ %(levelname)-7s %(message)s", "%Y-%m-%dT%H:%M:%S")


class JsonLines(logging.Formatter):
    """One JSON object a line: ``time`` (UTC), ``level``, ``message``, and the fields of ``extra={"data": ...}``.

    A field named like one of these three does not replace it; a traceback is in ``traceback``.
    """

    def format(self, record: logging.LogRecord) -> str:
        """The line of a record."""
        time_utc = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        line = {"time": time_utc, "level": record.levelname.lower(), "message": record.getMessage()}
        line = {**getattr(record, "data", {}), **line}
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


def log_to_stderr(*, quiet: bool, log_format: str = "text") -> logging.Handler:
    """Send the lines of the engine to standard error: warnings and errors, and those of each scan unless quiet."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines() if log_format == "json" else TextLines())
    logger = logging.getLogger("calib_gpu")
    logger.handlers[:] = [handler]
    logger.setLevel(logging.WARNING if quiet else logging.INFO)
    return handler


def warnings_to_stderr() -> None:
    """Send warnings and errors to standard error as they are: for commands that keep no log."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setLevel(logging.WARNING)
    logging.getLogger("calib_gpu").handlers[:] = [handler]


@contextlib.contextmanager
def silenced() -> Iterator[None]:
    """No lines of the engine meanwhile: for runs whose failures are looked at otherwise."""
    logger = logging.getLogger("calib_gpu")
    before, logger.handlers[:] = logger.handlers[:], [logging.NullHandler()]
    try:
        yield
    finally:
        logger.handlers[:] = before


def told_as_json() -> bool:
    """True where the log lines are JSON, so that nothing else belongs on standard error."""
    return any(isinstance(handler.formatter, JsonLines) for handler in logging.getLogger("calib_gpu").handlers)
