"""P5: corrupt L0 is never silent.

Every chunk of every array of a scan is damaged in every way that disks and copies know. With checksums all of it is found
and named; without, a run says that it would not see damage, and ``require_checksum`` refuses.
"""

from __future__ import annotations

import json
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from calib_gpu.store.chunks import ChunkedArray
from calib_gpu.store.codecs import Compressor
from calib_gpu.store.small import write_array
from calib_gpu.testing.damage import DAMAGES, chunk_files, flip_bit
from calib_gpu.testing.tamper import BYTES, GZIP, ZSTD, inside, one_chunk, sound_store
from many_scans import Damage, run_damaged


def chunks_of_the_scan(folder: Path) -> list[str]:
    """Paths of all chunk files below a scan."""
    sound_store(folder / "example.zarr")
    scan = inside()(folder / "example.zarr")
    return [str(p.relative_to(scan)) for p in chunk_files(scan)]


def damaged(file: str, how: Damage) -> Damage:
    return lambda scan: how(scan / file)


def test_every_chunk_in_every_way(tmp_path: Path, figure: Any) -> None:
    files = chunks_of_the_scan(tmp_path)
    assert len(files) > 40
    damages = {f"{file}: {name}": damaged(file, how) for file in files for name, how in DAMAGES.items()}
    found, missed = run_damaged(damages), []
    for name, line in found.items():
        file, how = name.split(": ")
        array, chunk = "/".join(file.split("/")[:2]), file.rsplit("/", 1)[1]
        said = line.message if line.status == "failed" else " ".join(line.warnings)
        # in a small array an absent chunk means its fill value, by the rules of Zarr
        absent = how == "missing" and not array.endswith(("data_5d", "sobsmode"))
        if array.split("/")[1] not in said or not (absent or chunk in said) or (line.status == "ok" and not absent):
            missed.append(f"{name}: {line.status} {said}")
    figure("P5", "damaged chunks that are named", f"{len(found) - len(missed)} of {len(found)}", "100 %")
    assert missed == []


def test_bits_of_counts(figure: Any) -> None:
    """Any single bit of the counts, those of headers, checksums and the index among them."""
    rng, bits = np.random.default_rng(5), 150
    flips = {str(k): partial(flip, bit=int(bit)) for k, bit in enumerate(rng.integers(0, 1 << 30, bits))}
    found = run_damaged(flips)
    seen = [name for name, line in found.items() if line.status == "failed" and "data_5d" in line.message]
    figure("P5", "flipped bits of counts that are named", f"{len(seen)} of {bits}", "100 %")
    assert len(seen) == bits


def flip(scan: Path, bit: int) -> None:
    flip_bit(scan / "source" / "data_5d" / "c.0.0.0.0.0", bit)


def reencoded(scan: Path, chain: list[dict[str, Any]], encode: Any) -> Path:
    """The counts of a scan as one chunk with another chain of codecs; the file."""
    array = scan / "source" / "data_5d"
    values = ChunkedArray(array, "counts", absent_is_fill=False).values()
    one_chunk(lambda _: array, chain, lambda: encode(np.ascontiguousarray(values).tobytes()))(scan)
    return array / "c.0.0.0.0.0"


def crc(raw: bytes) -> bytes:
    from calib_gpu.store.codecs import crc32c

    return raw + crc32c(raw).to_bytes(4, "little")


def gz(raw: bytes) -> bytes:
    import gzip

    return gzip.compress(raw, 1, mtime=0)


CHECKED = {
    "crc32c": ([BYTES, {"name": "crc32c"}], crc),
    "gzip": ([BYTES, GZIP], gz),
    "zstd with checksum": ([BYTES, ZSTD], lambda raw: Compressor("zstd", 1).encode(raw)),
    "zstd, crc32c": (
        [BYTES, {"name": "zstd", "configuration": {"level": 1, "checksum": False}}, {"name": "crc32c"}],
        lambda raw: crc(unchecked_zstd(raw)),
    ),
}


def unchecked_zstd(raw: bytes) -> bytes:
    import zstandard

    return zstandard.ZstdCompressor(1, write_checksum=False, write_content_size=True).compress(raw)


@pytest.mark.parametrize("codec", CHECKED)
def test_other_codecs_with_a_checksum(codec: str, figure: Any) -> None:
    chain, encode = CHECKED[codec]

    def apply(scan: Path, how: Damage) -> None:
        how(reencoded(scan, chain, encode))

    damages = {name: partial(apply, how=how) for name, how in DAMAGES.items()}
    for k in range(20):
        damages[f"bit {k}"] = partial(apply, how=lambda file, k=k: flip_bit(file, 80 + 997 * k))
    found = run_damaged(damages)
    seen = [n for n, line in found.items() if "source/data_5d" in line.message and "c.0.0.0.0.0" in line.message]
    figure("P5", f"damaged chunks in {codec} that are named", f"{len(seen)} of {len(found)}", "100 %")
    assert len(seen) == len(found)


def plain(scan: Path) -> None:
    reencoded(scan, [BYTES], lambda raw: raw)


def lying(scan: Path) -> None:
    """The metadata announce a checksum that the frame has not."""
    reencoded(scan, [BYTES, ZSTD], unchecked_zstd)


def plain_times(scan: Path) -> None:
    folder = scan / "source" / "mjd"
    document = json.loads((folder / "zarr.json").read_bytes())
    values = ChunkedArray(folder, "mjd", absent_is_fill=False).values()
    shutil.rmtree(folder)
    write_array(folder, values, ("S",), document["attributes"], Compressor())
    (folder / "zarr.json").write_text(json.dumps(document | {"codecs": [BYTES]}))
    (folder / "c.0").write_bytes(values.tobytes())


UNCHECKED = {"counts": plain, "times": plain_times, "checksum announced only": lying}


def test_without_checksum_a_warning() -> None:
    found = run_damaged({**UNCHECKED, "all checked": lambda scan: None})
    assert {line.status for line in found.values()} == {"ok"}
    assert any("no checksum in source/data_5d" in text for text in found["counts"].warnings)
    assert any("no checksum in source/mjd" in text for text in found["times"].warnings)
    assert not any("no checksum" in text for text in found["all checked"].warnings)


def test_required_checksums(figure: Any) -> None:
    found = run_damaged({**UNCHECKED, "all checked": lambda scan: None}, require_checksum=True)
    assert found["all checked"].status == "ok"
    refused = [name for name in UNCHECKED if found[name].status == "failed" and "checksum" in found[name].message]
    figure("P5", "scans without checksum that require_checksum refuses", f"{len(refused)} of {len(UNCHECKED)}", "all")
    assert len(refused) == len(UNCHECKED)
