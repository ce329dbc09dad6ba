"""What an input store may hold: the one place where names, files, sizes, JSON, codecs and chunks of others are judged.

Other programs wrote the store, and it may have been damaged or made to harm. Nothing of it is believed, decoded or
allocated before it has passed here: files are regular ones behind plain names and never links, documents are strict JSON
(:mod:`calib_gpu.store.strict_json`), sizes are computed as whole numbers of any length, only codecs on the list are run,
and a chunk says how large it gets before it is decoded. What breaks a rule raises :class:`calib_gpu.errors.Unreadable` or,
inside a document or a chunk, a ``ValueError`` that the caller puts the place to.
"""

from __future__ import annotations

import errno
import json
import math
import os
import re
import stat
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from calib_gpu.errors import Unreadable
from calib_gpu.settings import Settings
from calib_gpu.store import reads, system

Buffer = bytes | memoryview


@dataclass(frozen=True)
class Limits:
    """The sizes beyond which input is refused (settings of the same names), and whether every array needs a checksum."""

    max_scan_bytes: int = 64 << 30
    max_chunk_bytes: int = 256 << 20
    max_scans: int = 100_000
    max_attribute_bytes: int = 1 << 20
    require_checksum: bool = False

    @classmethod
    def of(cls, settings: Settings) -> Limits:
        """Those of a run."""
        return cls(**{name: getattr(settings, name) for name in cls.__dataclass_fields__})


DEFAULT_LIMITS: Final = Limits()
MAX_DOCUMENT_BYTES: Final = 16 << 20
MAX_RANK: Final = 32
MAX_STRING_BYTES: Final = 1 << 24
"""Most bytes that a chunk of strings may decode to."""
SMALL_FILES_BYTES: Final = 1 << 30
"""Most bytes that the documents and small arrays of a group may have together."""
MAX_FOLDERS_DEEP: Final = 40

# --- names ----------------------------------------------------------------------------------------------------------

SCAN_NAME: Final = re.compile(r"scan_([0-9]{6,9})")
BAND_NAME: Final = re.compile(r"band_[A-Za-z0-9._-]{1,60}")
_PLAIN_NAME: Final = re.compile(r"[A-Za-z0-9._][A-Za-z0-9._+~-]{0,199}")
_LINK_FIX: Final = "put the data themselves in the store"


def shown(name: str) -> str:
    """A name as it may be printed: without control characters, and not longer than a line."""
    text = ascii(name)[1:-1] if not (name.isascii() and name.isprintable()) else name
    return text if len(text) <= 80 else f"{text[:60]}... ({len(text)} characters)"


def is_plain(name: str) -> bool:
    """True for names of files and folders as Zarr writers make them."""
    return _PLAIN_NAME.fullmatch(name) is not None


def scan_number(name: str) -> int | None:
    """The number in the name of a scan's folder; None if it is not written as a scan's name is."""
    match = SCAN_NAME.fullmatch(name)
    return int(match[1]) if match and name == f"scan_{int(match[1]):06d}" else None


def looks_like_scan(name: str) -> bool:
    """True for what a person would take for the name of a scan: look-alike characters, another number of digits."""
    plain = unicodedata.normalize("NFKC", name).casefold().strip()
    return re.search(r"\d{4,12}\W*$", plain) is not None and (plain.startswith("scan") or not name.isascii())


# --- files ----------------------------------------------------------------------------------------------------------

OPEN_FLAGS: Final = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOFOLLOW
"""A FIFO must not block, a link is not followed."""


def open_file(path: str | Path, label: str, value: str | None = None, what: str = "") -> tuple[int, int]:
    """Open a regular file for reading; its handle and length. ``FileNotFoundError`` if there is none.

    ``label`` and ``value`` are what an error names as array and value, ``what`` the word it begins with.
    """
    said, handle = f"{what} " if what else "", -1
    try:
        handle = system.open(path, OPEN_FLAGS)
        status = system.fstat(handle)
    except FileNotFoundError:
        raise
    except OSError as error:
        if handle >= 0:
            system.close(handle)
        elif error.errno == errno.ELOOP:
            raise Unreadable(f"{said}is a symbolic link", array=label, value=value, fix=_LINK_FIX) from None
        raise reads.failure(error, f"{said}cannot be read", array=label, value=value) from None
    if not stat.S_ISREG(status.st_mode):
        system.close(handle)
        raise Unreadable(f"{said}is not a regular file", array=label, value=value, rule="files and folders only")
    return handle, status.st_size


def is_there(path: str | Path) -> bool:
    """Whether there is anything of this name, be it a link; :class:`Unreadable` if that cannot be told."""
    return _status(path) is not None


def _status(path: str | Path) -> os.stat_result | None:
    """Status of what has this name, None if nothing has. Any error that does not say so is no answer, but raised."""
    try:
        with reads.noted(path):
            return system.stat(path, follow_symlinks=False)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise reads.failure(error, "cannot be read", array=str(path)) from None


def check_entry(entry: os.DirEntry[str], folder: str) -> None:
    """Refuse what no writer of Zarr puts below a group: links, devices, FIFOs, sockets, names that play tricks."""
    if is_plain(entry.name) and (entry.is_file(follow_symlinks=False) or entry.is_dir(follow_symlinks=False)):
        return
    where = f"{folder}/{shown(entry.name)}"
    if not is_plain(entry.name):
        raise Unreadable("name not allowed", array=where, rule="letters, digits and ._+~-, at most 200")
    if entry.is_symlink():
        raise Unreadable("is a symbolic link", array=where, rule="no links below the store", fix=_LINK_FIX)
    raise Unreadable("is not a regular file", array=where, rule="files and folders only")


def check_folders(root: Path, parts: Sequence[str]) -> None:
    """Refuse a link among the folders below the store that lead to a group."""
    path = root
    for part in parts:
        path = path / part
        status = _status(path)
        if status is not None and stat.S_ISLNK(status.st_mode):
            raise Unreadable("is a symbolic link", array=str(path), rule="no links below the store", fix=_LINK_FIX)


def encoded_limit(decoded: int) -> int:
    """Most bytes that a chunk of so many decoded bytes may take in its file; codecs add little, never this much."""
    return 2 * decoded + (1 << 16)


# --- attributes --------------------------------------------------------------------------------------------------------


def check_attributes(attributes: Mapping[str, Any], n_raw: int, limits: Limits) -> None:
    """Refuse attributes of more than their limit; ``n_raw`` is the size of the document they stand in."""
    if n_raw <= limits.max_attribute_bytes:
        return
    size = 0
    for piece in json.JSONEncoder().iterencode(attributes):  # all at once takes more memory than the attributes
        size += len(piece)
        if size > limits.max_attribute_bytes:
            raise ValueError(f"attributes of more than {limits.max_attribute_bytes} bytes (max_attribute_bytes)")


# --- sizes ----------------------------------------------------------------------------------------------------------


def dims(shape: Any) -> tuple[int, ...]:
    """A shape from a document: whole numbers >= 0, of bounded rank, and a product that any machine can count."""
    if not isinstance(shape, list):
        raise ValueError(f"shape {shown(str(shape))} is not a list")
    if len(shape) > MAX_RANK:
        raise ValueError(f"{len(shape)} dimensions, at most {MAX_RANK}")
    if not all(type(n) is int and n >= 0 for n in shape) or math.prod(shape) > 2**50:
        raise ValueError(f"impossible shape {shown(str(shape[:8]))}")
    return tuple(shape)


def check_size(what: str, shape: Sequence[int], itemsize: int, most: int, setting: str) -> None:
    """Refuse an array or chunk of more bytes than its limit."""
    size = math.prod(shape) * itemsize
    if size > most:
        raise ValueError(f"{what} {list(shape)} has {size} bytes, at most {most} ({setting})")


# --- codecs ---------------------------------------------------------------------------------------------------------

COMPRESSORS: Final = ("zstd", "blosc", "gzip", "zlib")
SERIALIZERS: Final = ("bytes", "vlen-utf8")
CODECS: Final = (*SERIALIZERS, "transpose", *COMPRESSORS, "crc32c", "sharding_indexed")
"""All codecs that are run; ``gzip`` and ``zlib`` are those of Zarr v2 stores."""


def chain_problem(names: Sequence[Any], *, in_shard: bool = False) -> str:
    """Empty for a chain of codecs that is decoded, else why not.

    That is: a transpose, then bytes or strings, then at most one compressor, then checksums; or one level of shards.
    """
    unknown = next((name for name in names if name not in CODECS), None)
    if unknown is not None:
        return f"codec {shown(str(unknown))!r} is not read"
    if list(names) == ["sharding_indexed"]:
        return "shards inside shards are not read" if in_shard else ""
    rest = list(names)
    if rest[:1] == ["transpose"]:
        rest.pop(0)
    if not rest or rest.pop(0) not in SERIALIZERS:
        return f"codecs {', '.join(map(str, names))} in this order are not read"
    if rest and rest[0] in COMPRESSORS:
        rest.pop(0)
    return "" if set(rest) <= {"crc32c"} else f"codecs {', '.join(map(str, names))} in this order are not read"


# --- chunks ---------------------------------------------------------------------------------------------------------


class CodecError(ValueError):
    """A chunk that does not decode to what its metadata says."""


_ZSTD_MAGIC: Final = b"\x28\xb5\x2f\xfd"
ABSENT: Final = 2**64 - 1
"""Offset and size of an inner chunk that is not there."""


def expect_size(found: int | None, expected: int) -> None:
    """Refuse a chunk whose own size field says something else than the metadata."""
    if found is not None and found != expected:
        raise CodecError(f"decodes to {found} bytes where {expected} are expected")


def zstd_content_size(frame: Buffer) -> int | None:
    """Content size that a zstd frame declares in its header (RFC 8878, 3.1.1.1), None if it does not."""
    head = bytes(memoryview(frame)[:18])
    if len(head) < 6 or head[:4] != _ZSTD_MAGIC:
        raise CodecError("not a zstd frame")
    descriptor = head[4]
    single_segment, dictionary_flag, size_flag = descriptor >> 5 & 1, descriptor & 3, descriptor >> 6
    start = 5 + (0 if single_segment else 1) + (0, 1, 2, 4)[dictionary_flag]
    width = (1 if single_segment else 0, 2, 4, 8)[size_flag]
    if width == 0:
        return None
    if len(head) < start + width:
        raise CodecError("zstd frame header cut short")
    return int.from_bytes(head[start : start + width], "little") + (256 if width == 2 else 0)


def zstd_has_checksum(frame: Buffer) -> bool:
    """Whether a zstd frame ends with a checksum of its content."""
    head = bytes(memoryview(frame)[:5])
    return len(head) == 5 and head[:4] == _ZSTD_MAGIC and bool(head[4] & 4)


def blosc_content_size(frame: Buffer, length: int) -> int:
    """Content size that a blosc frame declares; also checks that it declares the length that it has."""
    head = bytes(memoryview(frame)[:16])
    if len(head) < 16:
        raise CodecError("blosc header cut short")
    if int.from_bytes(head[12:16], "little") != length:
        raise CodecError("blosc frame is cut short or has bytes behind it")
    return int.from_bytes(head[4:8], "little")


def check_index(index: NDArray[np.uint64], data_start: int, data_end: int) -> None:
    """Refuse a shard index with chunks outside the file's data, of no bytes, or on top of each other.

    ``index`` is [..., 2] (offset, size); an absent chunk has :data:`ABSENT` for both.
    """
    flat = index.reshape(-1, 2)
    present = flat[~np.all(flat == np.uint64(ABSENT), axis=1)]
    if not len(present):
        return
    if int(present.max()) > data_end or int(present[:, 1].min()) == 0:  # so that the sums below cannot overflow
        raise CodecError("shard index: a chunk outside the file, or of no bytes")
    present = present[np.argsort(present[:, 0], kind="stable")].astype(np.int64)
    ends = present.sum(axis=1)
    if int(present[0, 0]) < data_start or int(ends.max()) > data_end:
        raise CodecError("shard index: a chunk outside the file, or of no bytes")
    if bool(np.any(present[1:, 0] < ends[:-1])):
        raise CodecError("shard index: chunks on top of each other")
