"""What happens to files: each way in which a chunk is damaged on disks and in copies, by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final


def rewrite(file: Path, raw: bytes) -> None:
    """Put a new file in the place of one, so that other names of the old one keep its content."""
    file.unlink()
    file.write_bytes(raw)


def flip_bit(file: Path, bit: int) -> None:
    """Turn one bit of a file; ``bit`` counts from the first one and wraps around at the end."""
    raw = bytearray(file.read_bytes())
    place = bit % (8 * len(raw))
    raw[place // 8] ^= 1 << (place % 8)
    rewrite(file, bytes(raw))


def _resized(change: Callable[[bytes], bytes]) -> Callable[[Path], Any]:
    return lambda file: rewrite(file, change(file.read_bytes()))


DAMAGES: Final[Mapping[str, Callable[[Path], Any]]] = {
    "missing": Path.unlink,
    "empty": _resized(lambda raw: b""),
    "cut at 1 byte": _resized(lambda raw: raw[:1]),
    "cut at half": _resized(lambda raw: raw[: len(raw) // 2]),
    "last byte gone": _resized(lambda raw: raw[:-1]),
    "bit flip": lambda file: flip_bit(file, 4 * file.stat().st_size),
    "junk after": _resized(lambda raw: raw + b"\x01junk"),
}
"""Damage of a file in place."""


def chunk_files(array: Path) -> list[Path]:
    """All files of an array but its documents."""
    documents = ("zarr.json", ".zarray", ".zattrs")
    return sorted(p for p in array.rglob("*") if p.is_file() and p.name not in documents)
