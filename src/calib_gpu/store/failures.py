"""``failures.json`` in the store: the scans that failed, of this run and of earlier ones that nobody tried again since."""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from calib_gpu.errors import OutputError
from calib_gpu.store import disk, system

log = logging.getLogger("calib_gpu")

NAME: Final = "failures.json"
PATIENCE_S: Final = 10.0
"""How long a run that ends waits for another that is writing the list, before it goes on without the lock."""
_STEP_S: Final = 0.05
MAX_BYTES: Final = 64 * 1024 * 1024

Replace = Callable[[Path, bytes], None]
"""Writes a file so that it is the old or the new one."""


def record_failures(
    l1: Path, run: Path, tried: Collection[str], new: Sequence[dict[str, str]], replace: Replace
) -> None:
    """Bring the list up to date: what was tried leaves it, what failed enters it; an empty list is removed.

    Runs that end at the same moment take turns, with a lock on the folder ``run`` that dies with its owner.

    Raises
    ------
    OutputError
        The list cannot be written.
    """
    path = l1 / NAME
    with _turn(run):
        there = disk.is_file(path)
        old = [line for line in _read(path) if line["scan"] not in tried] if there else []
        if old or new:
            lines = sorted([*old, *new], key=lambda line: line["scan"])
            replace(path, json.dumps(lines, indent=1).encode() + b"\n")
        elif there:
            disk.remove_file(path)


def _read(path: Path) -> list[dict[str, Any]]:
    """The lines of the list that is there; of one that is damaged those that can be understood."""
    try:
        found = json.loads(disk.read_file(path, MAX_BYTES))
    except (OSError, ValueError, RecursionError) as error:
        log.warning("%s cannot be read and is written anew: %s", path, error)
        return []
    lines = found if isinstance(found, list) else []
    return [line for line in lines if isinstance(line, dict) and isinstance(line.get("scan"), str)]


@contextmanager
def _turn(folder: Path) -> Iterator[None]:
    """Hold the lock of a folder; go on without it where there are no locks, or where another holds it too long."""
    try:
        handle = system.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise OutputError(f"cannot be read: {error.strerror}", array=str(folder)) from None
    try:
        _wait_for(handle, folder)
        yield
    finally:
        system.close(handle)  # gives the lock up


def _wait_for(handle: int, folder: Path) -> None:
    for _ in range(round(PATIENCE_S / _STEP_S)):
        try:
            system.lock(handle)
            return
        except BlockingIOError:
            time.sleep(_STEP_S)
        except OSError:
            return
    log.warning("another run holds the lock of %s for more than %.0f s: not waited for", folder, PATIENCE_S)
