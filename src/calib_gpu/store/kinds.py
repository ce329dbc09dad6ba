"""What kind of store or file a path holds, and what to do where another kind was meant."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Final

from calib_gpu.errors import OutputError, StoreUnusable, Unreadable
from calib_gpu.store import reads, system
from calib_gpu.store.guard import SCAN_NAME
from calib_gpu.store.metadata import group_attrs, node_kind

L0_FORMAT: Final = "l0-heterodyne"
L1_FORMAT: Final = "l1-heterodyne"
TRUTH_FORMAT: Final = "l0-truth"
TABLE_FORMAT: Final = "opacity-table"

_IS: Final = {
    "L0": "these are raw counts (L0)",
    "L1": "these are calibrated spectra (L1)",
    "truth": "this is the truth of a simulation",
    "table": "this is an opacity table",
}
_BY_FORMAT: Final = {L0_FORMAT: "L0", L1_FORMAT: "L1", TRUTH_FORMAT: "truth", TABLE_FORMAT: "table"}


def kind_of(path: Path) -> str:
    """``L0``, ``L1``, ``truth`` or ``table`` by the attribute ``format``; without it a group with scans is L0; else empty."""
    try:
        if node_kind(path) != "group":
            return ""
        found = _BY_FORMAT.get(str(group_attrs(path).get("format", "")), "")
    except Unreadable:
        return ""
    return found or ("L0" if any(SCAN_NAME.fullmatch(p.name) for p in path.glob("scan_*")) else "")


def described(path: Path) -> str:
    """What a store is, in words with a colon in front; empty where nothing is known of it."""
    kind = kind_of(path)
    return f": {_IS[kind]}" if kind else ""


def refuse_no_folder(path: Path, wanted: str) -> None:
    """:class:`StoreUnusable` where ``path`` is no folder that can be read; ``wanted`` is ``L0``, ``L1`` or ``L0 or L1``."""
    try:
        with reads.noted(path):
            mode = system.stat(path).st_mode
    except (FileNotFoundError, NotADirectoryError, ValueError):  # the last for a name that no file can have
        mode = 0
    except OSError as error:
        raise StoreUnusable(
            f"cannot be read: {error.strerror}", array=str(path), fix="try again, or see to the disk"
        ) from None
    is_folder, is_file = stat.S_ISDIR(mode), stat.S_ISREG(mode)
    if is_folder and os.access(path, os.R_OK | os.X_OK):
        return
    what = "cannot be read" if is_folder else "is a file" if is_file else "no such directory"
    fits = wanted.startswith("L0") and is_file
    fix = "FITS files: calib-gpu ingest sdfits" if fits else f"give the path of an {wanted} Zarr store"
    raise StoreUnusable(what, array=str(path), fix=fix)


def refuse_other_kind(path: Path, wanted: str) -> None:
    """:class:`StoreUnusable` where a folder is known to be something else than ``wanted``, ``L0`` or ``L1``."""
    if SCAN_NAME.fullmatch(path.name) and kind_of(path.parent) in ("L0", "L1"):
        raise StoreUnusable(
            "a scan, not a store", array=str(path), fix=f"give {path.parent}, and the number of the scan"
        )
    kind = kind_of(path)
    if kind in ("", wanted):
        return
    raise StoreUnusable(f"not an {wanted} store: {_IS[kind]}", array=str(path), fix=_what_to_do(path, kind, wanted))


def _what_to_do(path: Path, kind: str, wanted: str) -> str:
    if (kind, wanted) == ("L0", "L1"):
        return f"calibrate it first: calib-gpu run {path} L1.zarr (to look inside: calib-gpu inspect {path})"
    if (kind, wanted) == ("L1", "L0"):
        source = group_attrs(path).get("input_store")
        named = f", {source}," if isinstance(source, str) and source else ""
        return f"give the L0 store{named} that it was made from (to look inside: calib-gpu inspect {path})"
    if kind == "table":
        return f"give an {wanted} store (to look inside: calib-gpu atm info {path})"
    return f"give the {wanted} store"


def refuse_foreign(path: Path, mark: bytes, kind: str, *, overwrite: bool) -> None:
    """:class:`OutputError` where a file stands that lacks our mark in its first or last 4 kB; an empty one may be replaced.

    ``kind`` is what a file with that mark is, "a report".
    """
    if not os.path.lexists(path) or (overwrite and path.is_file()):
        return
    try:
        with path.open("rb") as file:
            ends = file.read(4096)
            file.seek(max(0, os.fstat(file.fileno()).st_size - 4096))
            ends += file.read(4096)
    except OSError as error:
        raise OutputError(
            f"cannot be replaced: {error.strerror}", array=str(path), fix="give another file with -o"
        ) from None
    if ends and mark not in ends:
        fix = "give another file with -o, or --overwrite"
        raise OutputError(f"exists and is not {kind}", array=str(path), fix=fix)
