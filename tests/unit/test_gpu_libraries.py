"""Calls into nvCOMP and kvikio, held against the wheels that are installed: their headers, structures and signatures."""

from __future__ import annotations

import ctypes
import importlib.util
import inspect
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from calib_gpu.backend import kvikio_, nvcomp_
from calib_gpu.backend.decoder import SUCCESS, Batch, Span, found_layout, table_layout
from calib_gpu.backend.encoder import Chunks, chunk_table, frame_table
from calib_gpu.encoded import MAX_CHUNK_BYTES
from calib_gpu.errors import ConfigError, DeviceLost


def installed(name: str) -> bool:
    return all(importlib.util.find_spec(".".join(name.split(".")[: k + 1])) for k in range(name.count(".") + 1))


needs_nvcomp = pytest.mark.skipif(
    not installed("nvidia.libnvcomp"), reason="not run: needs nvidia-libnvcomp (extra gds13)"
)
needs_kvikio = pytest.mark.skipif(not installed("kvikio"), reason="not run: needs kvikio (extra gds13)")

STRUCTURES = {
    "nvcompProperties_t": nvcomp_.Properties, "nvcompBatchedZstdDecompressOpts_t": nvcomp_.DecompressOptions,
    "nvcompCRC32Spec_t": nvcomp_.CrcSpec, "nvcompCRC32KernelConf_t": nvcomp_.CrcKernel,
    "nvcompBatchedCRC32Opts_t": nvcomp_.CrcOptions, "nvcompBatchedZstdCompressOpts_t": nvcomp_.CompressOptions,
}  # fmt: skip
ENUMS = ("nvcompCRC32SegmentKind_t", "nvcompStatus_t")


def headers() -> tuple[Path, str]:
    """Folder of the headers, and their text without comments."""
    spec = importlib.util.find_spec("nvidia.libnvcomp")
    assert spec is not None
    assert spec.origin is not None
    folder = Path(spec.origin).parent / "include"
    text = "\n".join((folder / name).read_text() for name in ("nvcomp.h", "nvcomp/zstd.h", "nvcomp/crc32.h"))
    return folder, re.sub(r"/\*.*?\*/|//[^\n]*", "", text, flags=re.S)


def is_like(declared: str, given: Any) -> bool:
    """Whether a ctypes argument is what a parameter of the header needs."""
    if "*" in declared:
        if given is ctypes.c_void_p:
            return True
        pointed = declared.replace("const", "").split("*")[0].strip()
        return given in (ctypes.POINTER(STRUCTURES.get(pointed, ctypes.c_void_p)),) or (
            pointed == "size_t" and given is ctypes.POINTER(ctypes.c_size_t)
        )
    kind = declared.split()[0]
    known = {
        "size_t": ctypes.c_size_t,
        "cudaStream_t": ctypes.c_void_p,
        **STRUCTURES,
        **dict.fromkeys(ENUMS, ctypes.c_int),
    }
    return given is known[kind]


@needs_nvcomp
@pytest.mark.parametrize("name", list(nvcomp_.FUNCTIONS))
def test_signatures_of_nvcomp_are_those_of_its_headers(name: str) -> None:
    _, text = headers()
    found = re.search(rf"nvcompStatus_t\s+{name}\s*\(([^;]*)\)\s*;", text)
    assert found is not None, f"{name} is not declared"
    declared = [" ".join(part.split()) for part in found[1].split(",")]
    given = nvcomp_.FUNCTIONS[name]
    assert len(declared) == len(given), f"{name}: {declared}"
    for parameter, argument in zip(declared, given, strict=True):
        assert is_like(parameter, argument), f"{name}: {parameter} as {argument}"


@needs_nvcomp
def test_the_order_of_arguments_is_that_of_the_headers() -> None:
    """Many are pointers, which look alike: their names in the header are what :class:`Nvcomp` passes, one by one."""
    _, text = headers()

    def names(function: str) -> list[str]:
        found = re.search(rf"{function}\s*\(([^;]*)\)\s*;", text)
        assert found is not None
        return [part.split()[-1].lstrip("*") for part in found[1].split(",")]

    assert names("nvcompBatchedZstdDecompressAsync") == [
        "device_compressed_chunk_ptrs", "device_compressed_chunk_bytes", "device_uncompressed_buffer_bytes",
        "device_uncompressed_chunk_bytes", "num_chunks", "device_temp_ptr", "temp_bytes", "device_uncompressed_chunk_ptrs",
        "decompress_opts", "device_statuses", "stream",
    ]  # fmt: skip
    assert names("nvcompBatchedZstdDecompressGetTempSize") == [
        "num_chunks", "max_uncompressed_chunk_bytes", "decompress_opts", "temp_bytes", "max_total_uncompressed_bytes", "stream",
    ]  # fmt: skip
    assert names("nvcompBatchedZstdCompressAsync") == [
        "device_uncompressed_chunk_ptrs", "device_uncompressed_chunk_bytes", "max_uncompressed_chunk_bytes", "num_chunks",
        "device_temp_ptr", "temp_bytes", "device_compressed_chunk_ptrs", "device_compressed_chunk_bytes", "compress_opts",
        "device_statuses", "stream",
    ]  # fmt: skip
    assert names("nvcompBatchedZstdCompressGetMaxOutputChunkSize") == [
        "max_uncompressed_chunk_bytes", "compress_opts", "max_compressed_chunk_bytes",
    ]  # fmt: skip
    assert names("nvcompBatchedZstdCompressGetTempSize") == [
        "num_chunks", "max_uncompressed_chunk_bytes", "compress_opts", "temp_bytes", "max_total_uncompressed_bytes", "stream",
    ]  # fmt: skip
    assert names("nvcompBatchedCRC32Async") == [
        "device_input_chunk_ptrs", "device_input_chunk_bytes", "num_chunks", "device_crc32_ptr", "opts", "segment_kind",
        "device_statuses", "stream",
    ]  # fmt: skip
    assert names("nvcompBatchedCRC32GetHeuristicConf") == [
        "device_input_chunk_bytes", "num_chunks", "kernel_conf", "max_input_chunk_bytes", "stream",
    ]  # fmt: skip


class Recorder:
    """A library that notes its calls."""

    def __init__(self, status: int = SUCCESS) -> None:
        self.calls: list[tuple[str, tuple[Any, ...]]] = []
        self.status = status

    def nvcompGetStatusString(self, status: int) -> bytes:
        return b"what nvCOMP says"

    def __getattr__(self, name: str) -> Any:
        def call(*arguments: Any) -> int:
            self.calls.append((name, arguments))
            return self.status

        return call


class AtAddress:
    """A block, or (``ptr``) a stream."""

    def __init__(self, address: int, nbytes: int) -> None:
        self.address, self.ptr, self.nbytes = address, address, nbytes


def recorded(status: int = SUCCESS) -> tuple[nvcomp_.Nvcomp, Recorder, Batch, Any]:
    own, library = object.__new__(nvcomp_.Nvcomp), Recorder(status)
    own._library, own.version = library, "6.0.0"
    n = 3
    frames, target, scratch, found = (AtAddress(k << 20, 1000 + k) for k in (1, 2, 3, 4))
    return own, library, Batch(n, 512, frames, 256, target, scratch, found), AtAddress(77, 0)


def test_what_decoding_passes_on() -> None:
    own, library, batch, stream = recorded()
    own.decode(batch, stream)
    ((name, arguments),) = library.calls
    assert name == "nvcompBatchedZstdDecompressAsync"
    table, found = table_layout(3), found_layout(3)
    at = {k: (1 << 20) + 256 + table.offset(k) for k in ("source", "size", "target", "content")}
    assert arguments[:8] == (
        at["source"], at["size"], at["content"], (4 << 20) + found.offset("content"), 3, 3 << 20, 1003, at["target"]
    )  # fmt: skip
    assert arguments[9:] == ((4 << 20) + found.offset("status"), 77)
    assert bytes(arguments[8]) == bytes(64)


def test_what_checksums_pass_on() -> None:
    own, library, batch, stream = recorded()
    own.checksums(batch, stream)
    (first, heuristic), (second, arguments) = library.calls
    assert (first, second) == ("nvcompBatchedCRC32GetHeuristicConf", "nvcompBatchedCRC32Async")
    assert (heuristic[:2], heuristic[3:]) == ((None, 3), (512, None))
    table, found = table_layout(3), found_layout(3)
    where = (1 << 20) + 256
    assert arguments[:4] == (
        where + table.offset("source"), where + table.offset("size"), 3, (4 << 20) + found.offset("crc32c")
    )  # fmt: skip
    assert arguments[5:] == (0, (4 << 20) + found.offset("status"), 77)
    spec = arguments[4].spec
    assert (spec.poly, spec.init, spec.ref_in, spec.ref_out, spec.xorout) == nvcomp_.CRC32C


def recorded_encoder(status: int = SUCCESS) -> tuple[nvcomp_.NvcompEncoder, Recorder, Chunks, Any]:
    own, library = object.__new__(nvcomp_.NvcompEncoder), Recorder(status)
    own._library, own.version = library, "6.0.0"
    source, table, scratch, frames = (AtAddress(k << 20, 1000 + k) for k in (1, 2, 3, 4))
    return own, library, Chunks(3, 512, source, table, scratch, frames), AtAddress(77, 0)


def test_what_encoding_passes_on() -> None:
    own, library, chunks, stream = recorded_encoder()
    own.encode(chunks, stream)
    ((name, arguments),) = library.calls
    assert name == "nvcompBatchedZstdCompressAsync"
    told = {k: (2 << 20) + chunk_table(3).offset(k) for k in ("source", "content", "target")}
    found = {k: (4 << 20) + frame_table(3).offset(k) for k in ("size", "status")}
    assert arguments[:8] == (
        told["source"], told["content"], 512, 3, 3 << 20, 1003, told["target"], found["size"]
    )  # fmt: skip
    assert arguments[9:] == (found["status"], 77)
    assert bytes(arguments[8]) == bytes(64)


def test_what_is_asked_about_memory() -> None:
    own, library, _, _ = recorded_encoder()
    own.frame_bound(512)
    own.scratch_bytes(3, 512)
    (bound, of_bound), (scratch, of_scratch) = library.calls
    assert (bound, scratch) == (
        "nvcompBatchedZstdCompressGetMaxOutputChunkSize", "nvcompBatchedZstdCompressGetTempSize"
    )  # fmt: skip
    assert of_bound[0] == 512
    assert (of_scratch[:2], of_scratch[4:]) == ((3, 512), (3 * 512, None))


def test_a_refusal_to_encode_names_the_way_out() -> None:
    own, _, chunks, stream = recorded_encoder(status=10)
    with pytest.raises(DeviceLost, match=r"nvcompBatchedZstdCompressAsync.*status 10.*use --codec zstd"):
        own.encode(chunks, stream)


def test_a_refusal_is_loud() -> None:
    own, _, batch, stream = recorded(status=10)
    with pytest.raises(DeviceLost, match=r"nvcompBatchedZstdDecompressAsync.*status 10: what nvCOMP says.*6\.0\.0"):
        own.decode(batch, stream)


@needs_nvcomp
@pytest.mark.skipif(shutil.which("gcc") is None, reason="not run: needs gcc")
def test_structures_are_those_of_the_headers(tmp_path: Path) -> None:
    """Sizes and offsets, as a C compiler sees them; and the constants that are written out anew."""
    folder, text = headers()
    lines = ["#include <stdio.h>", "#include <stddef.h>", "#include <stdbool.h>", '#include "nvcomp.h"', "int main() {"]
    expected: list[int] = []
    for name, kind in STRUCTURES.items():
        lines.append(f'printf("%zu ", sizeof({name}));')
        expected.append(ctypes.sizeof(kind))
        for field, *_ in kind._fields_:
            lines.append(f'printf("%zu ", offsetof({name}, {field}));')
            expected.append(getattr(kind, field).offset)
    fields = ("poly", "init", "ref_in", "ref_out", "xorout")
    lines.extend(f'printf("%zu ", (size_t)nvcompCRC32_C.{field});' for field in fields)
    lines.append('printf("%d %d ", nvcompCRC32OnlySegment, nvcompSuccess);')
    lines.append('printf("%zu ", nvcompZstdDecompressionMaxAllowedChunkSize);}')
    (tmp_path / "sizes.c").write_text("\n".join(lines))
    # without the headers of CUDA a stream is declared as a pointer, which is what it is
    command = ["gcc", "-w", f"-I{folder}", str(tmp_path / "sizes.c"), "-o", str(tmp_path / "sizes")]
    subprocess.run(command, check=True, capture_output=True)
    out = subprocess.run([tmp_path / "sizes"], check=True, capture_output=True, text=True).stdout
    assert [int(v) for v in out.split()] == [
        *expected, *map(int, nvcomp_.CRC32C), nvcomp_.ONLY_SEGMENT, SUCCESS, 2**31 - 1
    ]  # fmt: skip
    assert text


@needs_nvcomp
def test_the_library_answers_without_a_gpu() -> None:
    own = nvcomp_.Nvcomp()
    assert own.describe().startswith(f"nvCOMP {nvcomp_.MAJOR}.")
    one, four = own.scratch_bytes(1, 1 << 20), own.scratch_bytes(4, 1 << 20)
    assert 1 << 20 <= one < four < 64 << 20


@needs_nvcomp
@pytest.mark.parametrize("content", [1, 168, 65_536, 1 << 20, MAX_CHUNK_BYTES])
def test_the_library_bounds_a_frame_without_a_gpu(content: int) -> None:
    """At least what zstd needs for what does not shrink: a header and three bytes a block of 128 KiB."""
    bound = nvcomp_.NvcompEncoder().frame_bound(content)
    assert content + 3 * -(-content // (1 << 17)) < bound <= content + content // 1000 + 64


@needs_nvcomp
def test_the_largest_chunk_is_that_of_the_header() -> None:
    spec = importlib.util.find_spec("nvidia.libnvcomp")
    assert spec is not None
    assert spec.origin is not None
    text = (Path(spec.origin).parent / "include" / "nvcomp" / "zstd.h").read_text()
    assert "Chunk sizes must not exceed 16 MB" in text
    assert MAX_CHUNK_BYTES <= 16_000_000
    assert "nvcompZstdRequiredCompressionAlignment = 4" in text


def test_another_version_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    class Older(Recorder):
        def nvcompGetProperties(self, properties: Any) -> int:
            properties._obj.version = 5_123
            return SUCCESS

    monkeypatch.setattr(nvcomp_, "load_library", Older)
    with pytest.raises(ConfigError, match=r"5\.1\.23"):
        nvcomp_.Nvcomp()


def test_a_library_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="gds13"):
        nvcomp_.Nvcomp()
    with pytest.raises(ConfigError, match=r"codec.*gds13.*use --codec zstd"):
        nvcomp_.NvcompEncoder()
    with pytest.raises(ConfigError, match="gds13"):
        kvikio_.KvikioFiles()


# --- kvikio


@needs_kvikio
def test_signatures_of_kvikio() -> None:
    import kvikio

    inspect.signature(kvikio.CuFile).bind("file", "r")
    bound = inspect.signature(kvikio.CuFile.raw_read).bind("self", "buffer", 10, 20, 0)
    assert list(bound.arguments) == ["self", "buf", "size", "file_offset", "dev_offset"]
    assert hasattr(kvikio.CuFile, "__enter__")


class FakeFile:
    """A CuFile over host memory."""

    short = False

    def __init__(self, file: Any, flags: str) -> None:
        assert flags == "r", "nothing is written"
        self.file = open(file, "rb")  # noqa: SIM115

    def __enter__(self) -> FakeFile:
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()

    def raw_read(self, buf: np.ndarray, size: int, file_offset: int, dev_offset: int) -> int:
        assert (buf.nbytes, dev_offset) == (size, 0)
        self.file.seek(file_offset)
        data = self.file.read(size)[: size - 1 if self.short else size]
        buf[: len(data)] = np.frombuffer(data, np.uint8)
        return len(data)


class OnDevice:
    """Host memory that says it is a device's."""

    def __init__(self, memory: np.ndarray) -> None:
        data = (memory.ctypes.data, False)
        self.__cuda_array_interface__ = {"shape": memory.shape, "typestr": "|u1", "data": data, "version": 3}


def reader(
    monkeypatch: pytest.MonkeyPatch, device_bytes: Any = lambda block, at, n: block[at : at + n]
) -> tuple[kvikio_.KvikioFiles, np.ndarray]:
    """A reader whose files and device are not real; blocks are arrays."""
    import sys
    import types

    fake = types.ModuleType("calib_gpu.backend.cupy_")
    fake.device_bytes = device_bytes  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "calib_gpu.backend.cupy_", fake)
    own = object.__new__(kvikio_.KvikioFiles)
    own._open, own._version, own._direct = FakeFile, "0", False
    return own, np.zeros(100, np.uint8)


def test_spans_go_where_they_should(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own, block = reader(monkeypatch)
    (tmp_path / "f").write_bytes(bytes(range(200)))
    own.read(tmp_path / "f", [Span(10, 5, 40), Span(150, 3, 0)], block)
    assert block[40:45].tolist() == [10, 11, 12, 13, 14]
    assert block[:3].tolist() == [150, 151, 152]
    assert np.count_nonzero(block) == 8


def test_a_short_read_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own, block = reader(monkeypatch)
    (tmp_path / "f").write_bytes(bytes(200))
    monkeypatch.setattr(FakeFile, "short", True)
    with pytest.raises(OSError, match="4 of 5 bytes at 10"):
        own.read(tmp_path / "f", [Span(10, 5, 40)], block)


@needs_kvikio
def test_without_a_driver_kvikio_fails_as_a_file_that_cannot_be_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For real: then the host reads the tile."""
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        pass
    else:
        pytest.skip("there is a driver")
    own = kvikio_.KvikioFiles()
    assert re.match(r"kvikio \d+\.\d+\.\d+, compatibility mode", own.describe())
    memory = np.zeros(100, np.uint8)
    _, block = reader(monkeypatch, device_bytes=lambda *_: OnDevice(memory))
    (tmp_path / "f").write_bytes(bytes(100_000))
    with pytest.raises(OSError, match="kvikio"):
        own.read(tmp_path / "f", [Span(0, 100, 0)], block)
