"""A tiny sound night, and tools that tamper with one scan of it; :mod:`calib_gpu.testing.hostile` puts them together.

Each tool gives a function of the store's folder. ``where`` finds a place inside the scan that is tampered with.
"""

from __future__ import annotations

import gzip
import json
import os
import shutil
import socket
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from calib_gpu.simulate import FIRST_SCAN, SimulationConfig, simulate, truth_path
from calib_gpu.store import codecs
from calib_gpu.testing.damage import rewrite

GOOD: Final = FIRST_SCAN
BAD: Final = FIRST_SCAN + 1
SHAPE: Final = (32, 2, 1, 1, 5)
GIB: Final = 1 << 30

Json = dict[str, Any]
Apply = Callable[[Path], Any]
"""Tampers with the store in a folder."""
Where = Callable[[Path], Path]
"""From the folder of a store to a place in it."""

BYTES: Final[Json] = {"name": "bytes", "configuration": {"endian": "little"}}
ZSTD: Final[Json] = {"name": "zstd", "configuration": {"level": 1, "checksum": True}}
GZIP: Final[Json] = {"name": "gzip", "configuration": {"level": 1}}
BLOSC: Final[Json] = {
    "name": "blosc",
    "configuration": {"cname": "lz4", "clevel": 5, "shuffle": "shuffle", "typesize": 4, "blocksize": 0},
}


def sound_store(path: Path) -> None:
    """Two science scans, :data:`GOOD` and :data:`BAD`, with loads of their own; nothing is wrong with either."""
    simulate(path, SimulationConfig(shape=SHAPE, n_scans=2, night=False))
    shutil.rmtree(truth_path(path))


def copies(store: Path, count: int) -> list[Path]:
    """Scan :data:`BAD` so many times more, each under a number of its own, to be tampered with one by one.

    Their files are hard links: tools put a new file in the place of one that they change.
    """
    folders = [store / f"scan_{30_000 + k:06d}" for k in range(count)]
    for folder in folders:
        shutil.copytree(inside()(store), folder, copy_function=os.link)
        edit(folder / "zarr.json", partial(_number, int(folder.name[5:])))
    return folders


def _number(number: int, document: Json) -> None:
    document["attributes"]["scan_number"] = number


def inside(*parts: str) -> Where:
    """A place inside scan :data:`BAD`."""
    return lambda store: store.joinpath(f"scan_{BAD:06d}", *parts)


def top(name: str) -> Where:
    """A place at the top of the store."""
    return lambda store: store / name


# --- documents ------------------------------------------------------------------------------------------------------


def edit(document: Path, change: Callable[[Json], Any]) -> None:
    """Change a JSON document in place; what is not JSON may be put into it, too."""
    data = json.loads(document.read_bytes())
    change(data)
    rewrite(document, json.dumps(data).encode())


def keys(where: Where, **changes: Any) -> Apply:
    """Other values for keys of the document in a folder."""
    return lambda store: edit(where(store) / "zarr.json", lambda data: data.update(changes))


def attributes(where: Where, **changes: Any) -> Apply:
    """Other attributes in the document of a folder."""
    return lambda store: edit(where(store) / "zarr.json", lambda data: data["attributes"].update(changes))


def text(where: Where, old: str, new: str) -> Apply:
    """Other text in the document of a folder."""

    def apply(store: Path) -> None:
        document = where(store) / "zarr.json"
        found = document.read_text()
        if old not in found:
            raise ValueError(f"{old!r} is not in {document}")
        rewrite(document, found.replace(old, new, 1).encode())

    return apply


def grid(*chunk: int) -> Json:
    """A regular chunk grid."""
    return {"name": "regular", "configuration": {"chunk_shape": list(chunk)}}


def shards(inner: tuple[int, ...], *chain: Json) -> Json:
    """The sharding codec."""
    index = [BYTES, {"name": "crc32c"}]
    return {
        "name": "sharding_indexed",
        "configuration": {"chunk_shape": list(inner), "codecs": list(chain), "index_codecs": index},
    }


# --- chunks ---------------------------------------------------------------------------------------------------------


def one_chunk(where: Where, chain: list[Json], raw: Callable[[], bytes]) -> Apply:
    """The array in a folder as one chunk, with codecs and bytes of its own."""

    def apply(store: Path) -> None:
        array = where(store)
        document = json.loads((array / "zarr.json").read_bytes())
        shutil.rmtree(array)
        array.mkdir()
        shape = document["shape"]
        (array / "zarr.json").write_text(json.dumps(document | {"chunk_grid": grid(*shape), "codecs": chain}))
        (array / ".".join(["c", *("0" for _ in shape)])).write_bytes(raw())

    return apply


def zstd_bomb(declared: int | None, blocks: int = 8192) -> bytes:
    """A zstd frame of ``blocks`` times 128 KiB of zeros (1 GiB), 4 bytes each, that declares a size (RFC 8878)."""
    head = b"\x28\xb5\x2f\xfd" + (b"\x00\x48" if declared is None else b"\xe0" + declared.to_bytes(8, "little"))
    block = 1 << 17
    runs = [(last | 1 << 1 | block << 3).to_bytes(3, "little") + b"\0" for last in [0] * (blocks - 1) + [1]]
    return head + b"".join(runs)


def blosc_bomb() -> bytes:
    """A blosc header that announces 1 GiB."""
    sizes = (GIB.to_bytes(4, "little"), (1 << 18).to_bytes(4, "little"), (20).to_bytes(4, "little"))
    return b"\x02\x01\x21\x04" + b"".join(sizes) + b"abcd"


def gzip_bomb() -> bytes:
    """32 MiB of zeros in 33 kB of gzip."""
    return gzip.compress(bytes(32 << 20), 9)


def shard_index(where: Where, change: Callable[[NDArray[np.uint64]], Any]) -> Apply:
    """Change the index of the first shard of an array [chunks, (offset, size)]; its checksum is set right again."""

    def apply(store: Path) -> None:
        array = where(store)
        document = json.loads((array / "zarr.json").read_bytes())
        shard = document["chunk_grid"]["configuration"]["chunk_shape"]
        inner = document["codecs"][0]["configuration"]["chunk_shape"]
        size = 16 * int(np.prod([s // i for s, i in zip(shard, inner, strict=True)]))
        file = min(array.glob("c.*"))
        raw = file.read_bytes()
        index = np.frombuffer(raw[-size - 4 : -4], "<u8").reshape(-1, 2).copy()
        change(index)
        body = index.tobytes()
        rewrite(file, raw[: -size - 4] + body + codecs.crc32c(body).to_bytes(4, "little"))

    return apply


# --- files ----------------------------------------------------------------------------------------------------------


def replaced(where: Where, make: Callable[[Path], Any]) -> Apply:
    """Something else in the place of a file or folder."""

    def apply(store: Path) -> None:
        path = where(store)
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
        make(path)

    return apply


def link(where: Where, to: str) -> Apply:
    """A symbolic link in the place of a file or folder."""
    return replaced(where, lambda path: path.symlink_to(to))


def moved_link(where: Where) -> Apply:
    """A file or folder moved out of the store, with a link in its place: the data could be read through it."""

    def apply(store: Path) -> None:
        path, outside = where(store), store.with_name(store.name + ".outside")
        path.rename(outside)
        path.symlink_to(outside)

    return apply


def make_socket(path: Path) -> None:
    """A socket; its path may have 107 characters only, so that it is made from within its folder."""
    here = Path.cwd()
    with socket.socket(socket.AF_UNIX) as there:
        os.chdir(path.parent)
        try:
            there.bind(path.name)
        finally:
            os.chdir(here)


def sparse(size: int) -> Callable[[Path], None]:
    """A file of holes."""

    def make(path: Path) -> None:
        path.touch()
        os.truncate(path, size)

    return make


def extra(where: Where) -> Apply:
    """A file that does not belong there."""
    return lambda store: where(store).write_bytes(b"x")


def scan_copy(name: str) -> Apply:
    """Scan :data:`BAD` a second time, under another name."""
    return lambda store: shutil.copytree(inside()(store), store / name)
