"""Chunk codecs: bytes of a chunk to its array and back, into buffers that the caller owns.

Only codecs on the list below are run; each checks the decoded size before or while it decodes.
"""

from __future__ import annotations

import gzip
import threading
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import google_crc32c
import numcodecs.blosc
import numcodecs.zstd
import numpy as np
import zstandard
from numpy.typing import NDArray

Buffer = bytes | memoryview
Encoded = Any
"""An encoded chunk: bytes, or a segment of a buffer of zstandard, whose stub does not tell that it holds bytes."""

numcodecs.blosc.use_threads = False  # its own threads put blocks in the order in which they end: other bytes each time

BLOSC_BLOCK_BYTES: Final = 256 * 1024
"""By measurement: zstd behind a bit shuffle is a third faster than on blosc's own choice, lz4 does not care."""

SMALL_BYTES: Final = 32 * 1024
"""Decoded size up to which a chunk is small: there the calls cost more than the bytes."""

_SEVERAL_AT_ONCE: Final = "multi_compress_to_buffer" in zstandard.backend_features

_ZSTD_MAGIC: Final = b"\x28\xb5\x2f\xfd"


class CodecError(ValueError):
    """A chunk that does not decode to what its metadata says."""


def _check_size(found: int | None, expected: int) -> None:
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


class _Coders(threading.local):
    """zstd coders of a thread: for small chunks making one takes longer than its work."""

    def __init__(self) -> None:
        self.decoder = zstandard.ZstdDecompressor()
        self.encoders: dict[int, zstandard.ZstdCompressor] = {}

    def encoder(self, level: int) -> zstandard.ZstdCompressor:
        """The encoder of a level, with content size and checksum."""
        if level not in self.encoders:
            self.encoders[level] = zstandard.ZstdCompressor(level, write_checksum=True, write_content_size=True)
        return self.encoders[level]


_coders: Final = _Coders()


def decode_small_zstd(data: Buffer) -> bytes:
    """The content of one frame that declares its size; :class:`zstandard.ZstdError` for anything else."""
    return _coders.decoder.decompress(data, allow_extra_data=False)


def _zstd(data: Buffer, out: NDArray[np.uint8]) -> None:
    size = zstd_content_size(data)
    _check_size(size, out.nbytes)
    if size is not None and size <= SMALL_BYTES:
        try:
            out[:] = np.frombuffer(decode_small_zstd(data), np.uint8)
        except zstandard.ZstdError:
            pass  # several frames, or damage: below it shows
        else:
            return
    numcodecs.zstd.decompress(data, out)  # bounded by out, also where the frame does not declare its size


def _blosc(data: Buffer, out: NDArray[np.uint8]) -> None:
    head = bytes(memoryview(data)[:16])
    if len(head) < 16:
        raise CodecError("blosc header cut short")
    if int.from_bytes(head[12:16], "little") != len(memoryview(data)):
        raise CodecError("blosc frame is cut short or has bytes behind it")
    _check_size(int.from_bytes(head[4:8], "little"), out.nbytes)
    numcodecs.blosc.decompress(data, out)


def _deflate(wbits: int) -> Callable[[Buffer, NDArray[np.uint8]], None]:
    def decode(data: Buffer, out: NDArray[np.uint8]) -> None:
        stream = zlib.decompressobj(wbits)
        raw = stream.decompress(data, out.nbytes + 1)
        if not stream.eof:
            raise CodecError(f"does not end after {out.nbytes} bytes")
        if stream.unused_data:
            raise CodecError("has bytes behind it")
        _check_size(len(raw), out.nbytes)
        out[:] = np.frombuffer(raw, np.uint8)

    return decode


DECODERS: Final[Mapping[str, Callable[[Buffer, NDArray[np.uint8]], None]]] = {
    "zstd": _zstd,
    "blosc": _blosc,
    "gzip": _deflate(16 + zlib.MAX_WBITS),
    "zlib": _deflate(zlib.MAX_WBITS),
}


def strip_crc32c(data: Buffer) -> memoryview:
    """Check and remove the four bytes of a trailing crc32c."""
    view = memoryview(data)
    if len(view) < 4 or int(google_crc32c.value(bytes(view[:-4]))) != int.from_bytes(view[-4:], "little"):
        raise CodecError("crc32c does not match")
    return view[:-4]


def decode(chain: tuple[str, ...], data: Buffer, out: NDArray[np.uint8]) -> None:
    """Undo the byte codecs of ``chain`` (in the order of encoding) into ``out``, which has the decoded size.

    Raises
    ------
    CodecError
        The chunk is cut, corrupt, or decodes to another size.
    """
    rest = list(chain)
    try:
        while rest and rest[-1] == "crc32c":
            data = strip_crc32c(data)
            rest.pop()
        if not rest:
            _check_size(len(memoryview(data)), out.nbytes)
            out[:] = np.frombuffer(data, np.uint8)
        else:
            DECODERS[rest[0]](data, out)
    except CodecError:
        raise
    except (RuntimeError, ValueError, zlib.error, gzip.BadGzipFile) as error:
        raise CodecError(str(error) or type(error).__name__) from None


def supported(chain: tuple[str, ...]) -> bool:
    """True for chains that :func:`decode` undoes: at most one compressor, then at most checksums."""
    names = list(chain)
    while names and names[-1] == "crc32c":
        names.pop()
    return not names or (len(names) == 1 and names[0] in DECODERS)


@dataclass(frozen=True)
class Compressor:
    """How chunks are written: ``zstd``, or ``blosc_zstd`` or ``blosc_lz4`` (bits shuffled first); all with a checksum."""

    name: str = "zstd"
    level: int = -1

    @property
    def _blosc_level(self) -> int:
        return min(max(self.level, 1), 9)

    def encode(self, chunk: Any) -> bytes:
        """The bytes of a C-contiguous chunk; blosc has no checksum of its own, so that a crc32c follows."""
        if self.name == "zstd":
            return encode_zstd(chunk, self.level)
        name = self.name.removeprefix("blosc_")
        shuffle, block = numcodecs.blosc.BITSHUFFLE, BLOSC_BLOCK_BYTES
        frame: bytes = numcodecs.blosc.compress(chunk, name.encode(), self._blosc_level, shuffle, block)
        return frame + crc32c(frame).to_bytes(4, "little")

    def encode_all(self, chunks: Sequence[Any]) -> list[Encoded]:
        """The bytes of several chunks, each as :meth:`encode` gives it; for zstd by one call without the interpreter."""
        if self.name != "zstd" or not _SEVERAL_AT_ONCE:
            return [self.encode(chunk) for chunk in chunks]
        frames = _coders.encoder(self.level).multi_compress_to_buffer(list(chunks), threads=1)
        return [frames[k] for k in range(len(chunks))]

    def documents(self, itemsize: int) -> list[dict[str, Any]]:
        """The codecs of the Zarr document that undo it, for items of so many bytes."""
        if self.name == "zstd":
            return [{"name": "zstd", "configuration": {"level": self.level, "checksum": True}}]
        how = {
            "cname": self.name.removeprefix("blosc_"), "clevel": self._blosc_level, "shuffle": "bitshuffle",
            "typesize": itemsize, "blocksize": BLOSC_BLOCK_BYTES,
        }  # fmt: skip
        return [{"name": "blosc", "configuration": how}, {"name": "crc32c"}]


def encode_all(chunks: Sequence[tuple[Compressor, Any]]) -> list[Encoded]:
    """The bytes of chunks, each with its compressor, in their order: one call for all that are written the same way."""
    out: dict[int, Encoded] = {}
    for compressor in dict.fromkeys(how for how, _ in chunks):
        mine = [k for k, (how, _) in enumerate(chunks) if how == compressor]
        out.update(zip(mine, compressor.encode_all([chunks[k][1] for k in mine]), strict=True))
    return [out[k] for k in range(len(chunks))]


def encode_zstd(data: Any, level: int) -> bytes:
    """One zstd frame with content size and checksum."""
    return _coders.encoder(level).compress(data)


def crc32c(data: Buffer) -> int:
    """crc32c (Castagnoli) of some bytes."""
    return int(google_crc32c.value(bytes(data)))
