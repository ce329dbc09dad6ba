"""``python -m calib_gpu.selftest.readers``: the optional readers and the encoder on a GPU, held against the host; rates.

What is compared: nvCOMP's crc32c and zstd (both ways) with those of the host, what kvikio reads with the file, and a night
calibrated with each of them with the same night on NumPy. Whatever is missing or fails is printed whole; the rest goes on.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from calib_gpu.backend import choose_backend
from calib_gpu.backend.base import Backend
from calib_gpu.backend.decoder import Decoder, DeviceFiles, Span, open_decoder, open_files
from calib_gpu.backend.device import Device
from calib_gpu.backend.encoder import Encoder, open_encoder
from calib_gpu.errors import CalibError
from calib_gpu.selftest.checks import Check, Comparison
from calib_gpu.selftest.encode import CHUNKS, measure_encode
from calib_gpu.selftest.frame_batch import FrameBatch
from calib_gpu.selftest.gpu_nights import NIGHT, SMALL_NIGHT, ZSTD_CRC, check_nights
from calib_gpu.store import codecs
from calib_gpu.workers import usable_cores

GB = 1e9
CHANNELS, DUMPS = 4096, 40
"""A chunk as this package writes it: those of preset M."""
Note = Callable[[str], None]
T = TypeVar("T", bound=Decoder | DeviceFiles | Encoder)


def counts_frames(n: int, channels: int = CHANNELS, dumps: int = DUMPS) -> tuple[NDArray[np.int32], list[bytes]]:
    """Counts [n,C,D] with the noise of a radiometer, and their frames."""
    rng = np.random.default_rng(7)
    level = 1e6 * (1.0 + 0.2 * np.sin(np.arange(channels) / 300.0))[:, None]
    counts = np.rint(level * (1.0 + 5e-4 * rng.standard_normal((n, channels, dumps)))).astype(np.int32)
    return counts, [ZSTD_CRC.encode(chunk)[:-4] for chunk in counts]


def best_of(times: int, work: Callable[[], object]) -> float:
    """Least seconds of some repetitions, after one that warms up."""
    found = []
    for _ in range(times + 1):
        begin = time.perf_counter()
        work()
        found.append(time.perf_counter() - begin)
    return min(found[1:])


def in_threads(n: int, work: Callable[..., object], *items: Iterable[object]) -> None:
    """Work over items in so many threads."""
    with ThreadPoolExecutor(n) as pool:
        list(pool.map(work, *items))


def check_decoder(device: Device, decoder: Decoder) -> Iterator[Check]:
    """crc32c and content of frames of several sizes, raw and repeated blocks among them."""
    rng = np.random.default_rng(1)
    for n, size in ((1, 40), (3, 4_000), (5, 65_536), (2, 300_000), (17, 1_000_000), (1, 5_000_000)):
        found = Comparison(f"{n} frames of {size} bytes")
        contents = [rng.integers(0, 9, size).astype(np.uint8) for _ in range(n)]
        contents[0][:] = 7
        contents[-1] = np.frombuffer(rng.bytes(size), np.uint8)
        for checksum in (False, True):
            frames = [codecs.encode_zstd(c, 1) if checksum else ZSTD_CRC.encode(c)[:-4] for c in contents]
            with FrameBatch(device, decoder, frames, size) as batch:
                batch.upload()
                batch.checksums()
                crc = batch.answer("crc32c")
                found.same("crc32c", crc, np.array([codecs.crc32c(f) for f in frames], np.uint32))
                batch.upload()
                batch.decode()
                found.same("status", batch.answer("status"), np.zeros(n, np.int32))
                found.same("bytes", batch.answer("content"), np.full(n, size, np.uint64))
                found.same("content", batch.result(), np.stack(contents))
        yield found.result()


def decode_rates(device: Device, decoder: Decoder, sizes: Sequence[int] = (4, 16, 64, 256)) -> Iterator[str]:
    """GB/s of counts: batches of some frames on the GPU, many batches side by side, and all cores of the host."""
    counts, frames = counts_frames(sizes[-1])
    ratio = counts.nbytes / sum(map(len, frames))
    yield f"counts: {sizes[-1]} chunks of {counts[0].nbytes / 1e6:.2f} MB, zstd 1, ratio {ratio:.2f}"
    for n in sizes:
        with FrameBatch(device, decoder, frames[:n], counts[0].nbytes) as batch:
            batch.upload()
            seconds = best_of(3, batch.decode_and_wait)
            yield f"decode on the GPU, one batch of {n}: {counts[:n].nbytes / seconds / GB:.2f} GB/s, {1e3 * seconds:.2f} ms"
    yield from _side_by_side(device, decoder, frames, counts[0].nbytes)
    out, cores = np.empty_like(counts), usable_cores()
    flat = out.reshape(len(frames), -1).view(np.uint8)
    for n_thread in sorted({1, cores}):
        decode = partial(codecs.decode, ("zstd",))
        seconds = best_of(2, partial(in_threads, n_thread, decode, frames, flat))
        yield f"decode on the host, {n_thread} threads: {counts.nbytes / seconds / GB:.2f} GB/s"


def _side_by_side(device: Device, decoder: Decoder, frames: list[bytes], content: int) -> Iterator[str]:
    """As the tile loop does: a stream for each tile of four frames."""
    batches = [FrameBatch(device, decoder, frames[k : k + 4], content) for k in range(0, min(len(frames), 128), 4)]
    try:
        for n in sorted({min(n, len(batches)) for n in (4, 16, 32)}):

            def work(n: int = n) -> None:
                for batch in batches[:n]:
                    batch.upload()
                    batch.decode()
                for batch in batches[:n]:
                    batch.wait()

            rate = n * 4 * content / best_of(3, work) / GB
            yield f"upload and decode, {n} tiles of 4 frames side by side: {rate:.2f} GB/s"
    finally:
        for batch in batches:
            batch.close()


def check_files(device: Device, files: DeviceFiles, folder: Path, n_bytes: int = 256 << 20) -> Iterator[Check | str]:
    """What is read to the device is what is in the file; the rates of both ways."""
    path, piece = folder / "bytes", 1 << 20
    data = np.random.default_rng(2).integers(0, 256, n_bytes, np.uint8)
    path.write_bytes(data.tobytes())
    block, back, stream, event = device.empty(n_bytes), device.pinned(n_bytes), device.stream("files"), device.event()

    def settle() -> None:
        device.record(event, stream)
        device.synchronize(event)

    def through_host(read: Callable[[], None]) -> None:
        read()
        device.upload(block, back, n_bytes, stream)
        settle()

    try:
        found = Comparison("bytes read to the device")
        spans = [
            Span(7, 1, 0),
            Span(4096, 4096, 4096),
            Span(12_345, 100_000, 16_384),
            Span(1, 3 * piece + 1, 3 * piece),
        ]
        files.read(path, spans, block)
        device.download(back, block, n_bytes, stream)
        settle()
        for span in spans:
            got = back.read()[span.at : span.at + span.size]
            found.same(str(span), got, data[span.offset : span.offset + span.size])
        yield found.result()
        for n_thread in (1, 8):
            step = n_thread * piece
            parts = [[Span(k, piece, k) for k in range(j * piece, n_bytes, step)] for j in range(n_thread)]
            seconds = best_of(2, partial(in_threads, n_thread, partial(files.read, path, block=block), parts))
            yield f"read to the device in calls of 1 MiB, {n_thread} threads: {n_bytes / seconds / GB:.2f} GB/s (page cache)"
            plain = partial(in_threads, n_thread, partial(_read_plain, path, back.write()), parts)
            seconds = best_of(2, partial(through_host, plain))
            yield f"read to page-locked memory, and up, {n_thread} threads: {n_bytes / seconds / GB:.2f} GB/s (page cache)"
    finally:
        for held in (block, back):
            device.release(held)


def _read_plain(path: Path, memory: NDArray[np.uint8], spans: list[Span]) -> None:
    with path.open("rb", buffering=0) as file:
        for span in spans:
            os.preadv(file.fileno(), [memory[span.at : span.at + span.size].data], span.offset)


def run(backend: Backend, folder: Path, note: Note, *, small: bool = False) -> bool:
    """All of it; true if nothing differs. ``small`` is for devices that are simulated."""
    device, passed = backend.device, True
    assert device is not None
    decoder = _opened("nvCOMP", lambda: open_decoder(device), note)
    files = _opened("kvikio", lambda: open_files(device), note)
    encoder = _opened("the encoder of nvCOMP", lambda: open_encoder(device), note)
    parts: list[Callable[[], Iterator[Check | str]]] = []
    if decoder is not None:
        sizes = (2, 4) if small else (4, 16, 64, 256)
        parts += [lambda: check_decoder(device, decoder), lambda: decode_rates(device, decoder, sizes)]
    if files is not None:
        parts.append(lambda: check_files(device, files, folder, 8 << 20 if small else 256 << 20))
    parts.append(lambda: check_nights(backend, folder, SMALL_NIGHT if small else NIGHT))
    if encoder is not None:
        parts.append(lambda: measure_encode(device, encoder, 3 if small else CHUNKS))
    for part in parts:
        try:
            for found in part():
                note(found if isinstance(found, str) else f"{found.status:8} {found.name}: {found.detail}")
                passed = passed and not (isinstance(found, Check) and found.failed)
        except Exception:
            note(f"FAILED\n{traceback.format_exc()}")
            passed = False
    return passed and None not in (decoder, files, encoder)


def _opened(name: str, opener: Callable[[], T], note: Note) -> T | None:
    try:
        found = opener()
    except Exception:
        note(f"{name} cannot be used\n{traceback.format_exc()}")
        return None
    note(found.describe())
    return found


def main() -> int:
    """0 if everything was run and agrees."""
    begin = time.perf_counter()
    backend, _ = choose_backend("cupy")
    print(backend.describe(), f"{usable_cores()} cores, Python {sys.version.split()[0]}", sep=", ", flush=True)
    try:
        with tempfile.TemporaryDirectory(prefix="calib-gpu-readers-") as folder:
            passed = run(backend, Path(folder), lambda text: print(text, flush=True))
    finally:
        backend.close()
    print(f"readers: {'passed' if passed else 'FAILED'} in {time.perf_counter() - begin:.1f} s")
    return int(not passed)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except CalibError as error:
        print(f"calib-gpu: error: {error}", file=sys.stderr)
        sys.exit(int(error.exit_code))
