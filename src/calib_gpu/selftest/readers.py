"""``python -m calib_gpu.selftest.readers``: the optional readers on a GPU, held against the host, and their rates.

What is compared: nvCOMP's crc32c and zstd with those of the host, what kvikio reads with the file, and a night calibrated
with each of them with the same night on NumPy. Whatever is missing or fails is printed whole; the rest goes on.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from calib_gpu.backend import choose_backend
from calib_gpu.backend.base import Backend
from calib_gpu.backend.decoder import Decoder, DeviceFiles, Span, open_decoder, open_files
from calib_gpu.backend.device import Device
from calib_gpu.backend.numpy_ import NumpyBackend
from calib_gpu.errors import CalibError
from calib_gpu.pipeline import calibrate
from calib_gpu.selftest.checks import Check, Comparison
from calib_gpu.selftest.encode import measure_encode
from calib_gpu.selftest.frame_batch import FrameBatch
from calib_gpu.selftest.night import files_of
from calib_gpu.settings import Settings
from calib_gpu.simulate import realistic, simulate
from calib_gpu.store import codecs
from calib_gpu.store.codecs import Compressor
from calib_gpu.workers import usable_cores

GB = 1e9
ZSTD_CRC = Compressor("zstd_crc32c", 1)
CHANNELS, DUMPS = 4096, 40
"""A chunk as this package writes it: those of preset M."""
RUNS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("host", {}), ("nvcomp", {"gpu_reader": "nvcomp"}), ("kvikio", {"gpu_reader": "kvikio"}),
    ("nvcomp, 48 slots", {"gpu_reader": "nvcomp", "slots": 48, "memory": 1 << 30}),
)  # fmt: skip
"""Run twice: the first time the libraries are loaded and kernels compiled."""
NIGHT = (16384, 40, 1, 7, 14)
"""Half a scan of preset M."""
Note = Callable[[str], None]
T = TypeVar("T", bound=Decoder | DeviceFiles)


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


def check_nights(backend: Backend, folder: Path, shape: tuple[int, int, int, int, int]) -> Iterator[Check | str]:
    """A night whose counts are zstd + crc32c, calibrated on NumPy and with each reader: the files of L1, and the times."""
    simulate(folder / "night.zarr", realistic("M", shape=shape), counts=ZSTD_CRC)
    expected: dict[str, str] = {}
    for k, (reader, values) in enumerate((("numpy", {}), *2 * RUNS)):
        chosen = NumpyBackend() if reader == "numpy" else backend
        settings, out = Settings(**values), folder / f"{k}.zarr"
        begin = time.perf_counter()
        report = calibrate(folder / "night.zarr", out, settings, backend=chosen)
        seconds = time.perf_counter() - begin
        files = files_of(out)
        shutil.rmtree(out)
        expected = expected or files
        notes = sorted({note for scan in report.scans for note in scan.notes})
        differing = sorted(n for n in expected.keys() | files.keys() if expected.get(n) != files.get(n))
        on_host = [n for n in notes if "on the host" in n]
        status = "differs" if differing or on_host or report.count("failed") else "ok"
        message = next((scan.message for scan in report.scans if scan.error == "DeviceLost"), "")
        detail = (
            f"{len(files)} files, {len(differing)} differ; {report.count('ok')} scans ok; {'; '.join(notes)} {message}"
        )
        yield Check(f"a night with {reader}", status, detail.strip())
        stages = {
            name: round(sum(scan.timings_ms.get(name, 0.0) for scan in report.scans)) for name in ("calibrate", "write")
        }
        yield f"a night with {reader}: {seconds:.2f} s, of which ms {stages}"


def run(backend: Backend, folder: Path, note: Note, *, small: bool = False) -> bool:
    """All of it; true if nothing differs. ``small`` is for devices that are simulated."""
    device, passed = backend.device, True
    assert device is not None
    decoder = _opened("nvCOMP", lambda: open_decoder(device), note)
    files = _opened("kvikio", lambda: open_files(device), note)
    parts: list[Callable[[], Iterator[Check | str]]] = []
    if decoder is not None:
        sizes = (2, 4) if small else (4, 16, 64, 256)
        parts += [lambda: check_decoder(device, decoder), lambda: decode_rates(device, decoder, sizes)]
    if files is not None:
        parts.append(lambda: check_files(device, files, folder, 8 << 20 if small else 256 << 20))
    parts.append(lambda: check_nights(backend, folder, (512, 16, 1, 2, 4) if small else NIGHT))
    if not small:
        parts.append(lambda: measure_encode(device))
    for part in parts:
        try:
            for found in part():
                note(found if isinstance(found, str) else f"{found.status:8} {found.name}: {found.detail}")
                passed = passed and not (isinstance(found, Check) and found.failed)
        except Exception:
            note(f"FAILED\n{traceback.format_exc()}")
            passed = False
    return passed and decoder is not None and files is not None


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
