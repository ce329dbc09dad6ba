"""Chunk codecs: bytes of a chunk to its array and back, into buffers that the caller owns.

Only the codecs of :data:`calib_gpu.store.guard.CODECS` are run; each checks the decoded size before or while it decodes.
"""

from __future__ import annotations

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

from calib_gpu.store import guard
from calib_gpu.store.guard import Buffer, CodecError

Encoded = Any
"""An encoded chunk: bytes, or a segment of a buffer of zstandard, whose stub does not tell that it holds bytes."""

numcodecs.blosc.use_threads = False  # its own threads put blocks in the order in which they end: other bytes each time

BLOSC_BLOCK_BYTES: Final = 256 * 1024
"""By measurement: zstd behind a bit shuffle is a third faster than on blosc's own choice, lz4 does not care."""

SMALL_BYTES: Final = 32 * 1024
"""Decoded size up to which a chunk is small: there the calls cost more than the bytes."""

_SEVERAL_AT_ONCE: Final = "multi_compress_to_buffer" in zstandard.backend_features


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
    size = guard.zstd_content_size(data)
    guard.expect_size(size, out.nbytes)
    if size is not None and size <= SMALL_BYTES:
        try:
            out[:] = np.frombuffer(decode_small_zstd(data), np.uint8)
        except zstandard.ZstdError:
            pass  # several frames, or damage: below it shows
        else:
            return
    numcodecs.zstd.decompress(data, out)  # bounded by out, also where the frame does not declare its size


def _blosc(data: Buffer, out: NDArray[np.uint8]) -> None:
    guard.expect_size(guard.blosc_content_size(data, len(memoryview(data))), out.nbytes)
    numcodecs.blosc.decompress(data, out)


def _inflate(wbits: int, data: Buffer, most: int) -> bytes:
    """A whole deflate stream of at most ``most`` bytes; no more than that is ever decoded."""
    stream = zlib.decompressobj(wbits)
    raw = stream.decompress(data, most + 1)
    if not stream.eof:
        raise CodecError(f"does not end after {most} bytes")
    if stream.unused_data:
        raise CodecError("has bytes behind it")
    return raw


def _deflate(wbits: int) -> Callable[[Buffer, NDArray[np.uint8]], None]:
    def decode(data: Buffer, out: NDArray[np.uint8]) -> None:
        raw = _inflate(wbits, data, out.nbytes)
        guard.expect_size(len(raw), out.nbytes)
        out[:] = np.frombuffer(raw, np.uint8)

    return decode


_WBITS: Final = {"gzip": 16 + zlib.MAX_WBITS, "zlib": zlib.MAX_WBITS}
DECODERS: Final[Mapping[str, Callable[[Buffer, NDArray[np.uint8]], None]]] = {
    "zstd": _zstd,
    "blosc": _blosc,
    **{name: _deflate(wbits) for name, wbits in _WBITS.items()},
}
"""The compressors of :data:`calib_gpu.store.guard.COMPRESSORS`."""


def strip_crc32c(data: Buffer) -> memoryview:
    """Check and remove the four bytes of a trailing crc32c."""
    view = memoryview(data)
    if len(view) < 4 or int(google_crc32c.value(bytes(view[:-4]))) != int.from_bytes(view[-4:], "little"):
        raise CodecError("crc32c does not match")
    return view[:-4]


def _without_checksums(chain: tuple[str, ...], data: Buffer) -> tuple[str, Buffer]:
    """The compressor (empty without one), and its frame after the checksums behind it were checked."""
    rest = list(chain)
    while rest and rest[-1] == "crc32c":
        data = strip_crc32c(data)
        rest.pop()
    return (rest[0] if rest else ""), data


def decode(chain: tuple[str, ...], data: Buffer, out: NDArray[np.uint8]) -> None:
    """Undo the byte codecs of ``chain`` (in the order of encoding) into ``out``, which has the decoded size.

    Raises
    ------
    CodecError
        The chunk is cut, corrupt, or decodes to another size.
    """
    name, frame = _without_checksums(chain, data)
    if not name:
        guard.expect_size(len(memoryview(frame)), out.nbytes)
        out[:] = np.frombuffer(frame, np.uint8)
        return
    try:
        DECODERS[name](frame, out)
    except CodecError:
        raise
    except (RuntimeError, ValueError, zlib.error) as error:
        raise CodecError(str(error) or type(error).__name__) from None


def decode_unsized(chain: tuple[str, ...], data: Buffer, most: int) -> Buffer:
    """Undo ``chain`` where the decoded size follows from the chunk alone, as for strings; at most ``most`` bytes."""
    name, frame = _without_checksums(chain, data)
    if not name:
        return frame
    try:
        if name in _WBITS:
            return _inflate(_WBITS[name], frame, most)
        size = (
            guard.zstd_content_size(frame)
            if name == "zstd"
            else guard.blosc_content_size(frame, len(memoryview(frame)))
        )
        if size is None or size > most:
            raise CodecError(f"declares a size of {size} bytes, at most {most}")
        out = np.empty(size, np.uint8)
        DECODERS[name](frame, out)
    except CodecError:
        raise
    except (RuntimeError, ValueError, zlib.error) as error:
        raise CodecError(str(error) or type(error).__name__) from None
    return out.data


@dataclass(frozen=True)
class Compressor:
    """How chunks are written, all with a checksum.

    ``zstd``; ``zstd_crc32c``, the same with its checksum outside of the frame, where it can be tested without decoding;
    ``blosc_zstd`` or ``blosc_lz4``, bits shuffled first.
    """

    name: str = "zstd"
    level: int = -1

    @property
    def _blosc_level(self) -> int:
        return min(max(self.level, 1), 9)

    def encode(self, chunk: Any) -> bytes:
        """The bytes of a C-contiguous chunk; blosc has no checksum of its own, so that a crc32c follows."""
        if self.name == "zstd":
            return encode_zstd(chunk, self.level)
        if self.name == "zstd_crc32c":
            return with_crc32c(zstandard.ZstdCompressor(self.level, write_content_size=True).compress(chunk))
        name = self.name.removeprefix("blosc_")
        shuffle, block = numcodecs.blosc.BITSHUFFLE, BLOSC_BLOCK_BYTES
        frame: bytes = numcodecs.blosc.compress(chunk, name.encode(), self._blosc_level, shuffle, block)
        return with_crc32c(frame)

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
        if self.name == "zstd_crc32c":
            return [{"name": "zstd", "configuration": {"level": self.level, "checksum": False}}, {"name": "crc32c"}]
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


def with_crc32c(data: bytes) -> bytes:
    """Some bytes, and their crc32c behind them: the codec crc32c of Zarr v3."""
    return data + crc32c(data).to_bytes(4, "little")
