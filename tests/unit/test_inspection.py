"""``calib-gpu inspect``: loads, pairing, tuning and sizes as they are; warnings where the layout of the counts is slow."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from zarr.codecs import BloscCodec, BytesCodec, Crc32cCodec, ZstdCodec

from calib_gpu import Settings, calibrate
from calib_gpu.inspection import Table, inspect_store
from calib_gpu.inspection.layout import layout_line, layout_warnings
from calib_gpu.inspection.tables import size_text
from calib_gpu.records import ScanId
from calib_gpu.simulate import SimulationConfig, simulate
from calib_gpu.store.chunks import ChunkedArray
from small_scan import small_scan

SHAPE = (1024, 8, 1, 4, 6)


def table(tables: list[Table], word: str) -> list[dict[str, str]]:
    (found,) = (t for t in tables if word in t.title)
    return [dict(zip(found.columns, row, strict=True)) for row in found.rows]


def layout(folder: Path, chunk: tuple[int, ...], compressor: Any, **more: Any) -> ChunkedArray:
    zarr.create_array(
        str(folder), shape=SHAPE, dtype="int32", chunks=chunk, compressors=compressor, serializer=BytesCodec(), filters=None,
        dimension_names=["C", "D", "R", "A", "S"], **more,
    )  # fmt: skip
    return ChunkedArray(folder, "source/data_5d", absent_is_fill=True)


@pytest.mark.parametrize(
    ("chunk", "compressor", "words"),
    [
        ((1024, 8, 1, 4, 1), ZstdCodec(level=1, checksum=True), []),
        ((1024, 8, 1, 4, 1), ZstdCodec(level=1), ["no checksum"]),
        ((1024, 8, 1, 4, 1), [ZstdCodec(level=1), Crc32cCodec()], []),
        ((1024, 8, 1, 4, 1), BloscCodec(), ["no checksum"]),
        ((1024, 8, 1, 4, 1), None, ["no checksum"]),
        (
            (1024, 8, 1, 4, 6),
            ZstdCodec(checksum=True),
            ["6 subscans in a chunk: the counts are first laid out anew"],
        ),
        ((1024, 8, 1, 4, 9), ZstdCodec(checksum=True), ["6 subscans in a chunk"]),
        ((64, 8, 1, 1, 1), ZstdCodec(checksum=True), ["384 small chunks of 2.05 kB"]),
        ((1024, 8, 1, 1, 1), ZstdCodec(checksum=True), []),  # small, but so few that it does not matter
    ],
    ids=["zstd checked", "zstd", "crc32c", "blosc", "plain", "all subscans", "beyond", "small", "small but few"],
)
def test_layouts_that_are_slow_or_unsafe_are_named(
    tmp_path: Path, chunk: tuple[int, ...], compressor: Any, words: list[str]
) -> None:
    found = layout_warnings(layout(tmp_path / "data_5d", chunk, compressor))
    assert len(found) == len(words)
    assert all(word in text for word, text in zip(words, found, strict=True))


def test_large_chunks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("calib_gpu.inspection.layout.LARGE_CHUNK", 100_000)
    array = layout(tmp_path / "b", (1024, 8, 1, 4, 1), ZstdCodec(checksum=True))
    assert ["large chunks of 131 kB" in text for text in layout_warnings(array)] == [True]


def test_the_line_of_a_sharded_layout(tmp_path: Path) -> None:
    array = layout(tmp_path / "a", (512, 8, 1, 1, 1), ZstdCodec(checksum=True), shards=(1024, 8, 1, 2, 6))
    assert layout_line(array) == (
        "786 kB of int32 counts in 2 file(s) of [1024,8,1,2,6], decoded in chunks of [512,8,1,1,1] = 16.4 kB; zstd"
    )
    assert layout_warnings(array) == []


def test_a_zarr_2_layout(tmp_path: Path) -> None:
    zarr.create_array(str(tmp_path / "v2"), shape=SHAPE, dtype="int32", chunks=(1024, 8, 1, 4, 1), zarr_format=2)
    found = layout_warnings(ChunkedArray(tmp_path / "v2", "source/data_5d", absent_is_fill=True))
    assert found == ["no checksum: damaged counts are not seen; write zstd with checksum, or crc32c behind it"]


def test_loads_pairing_and_tuning_of_a_scan(tmp_path: Path) -> None:
    simulate(tmp_path / "l0.zarr", SimulationConfig(shape=(64, 4, 1, 2, 8), n_scans=2, night=True))
    tables = inspect_store(tmp_path / "l0.zarr", ScanId(25652), Settings(reference="interp"))
    serving = table(tables, "loads that serve it")
    assert [(row["load set"], row["use"]) for row in serving] == [
        ("scan_025651", "calibration"),
        ("scan_025650", "gain drift"),
    ]
    assert (serving[0]["T_hot K"], serving[0]["T_cold K"], serving[0]["HOT"], serving[0]["COLD"]) == (
        "293.00",
        "78.00",
        "0",
        "1",
    )
    pairing = {row["ON subscan"]: row for row in table(tables, "reference of each ON")}
    assert list(pairing) == ["1", "2", "3", "5", "6", "7"]  # every fourth subscan is an OFF
    assert pairing["1"]["OFF subscan"] == "0.750 x 0 + 0.250 x 4"  # subscans of 6 s: 0 is 6 s before, 4 is 18 s after
    assert pairing["1"]["OFF after ON, s"] == "-6.0 +18.0"
    assert pairing["7"]["OFF subscan"] == "1.000 x 4"
    (tuning,) = table(tables, "tuning")
    assert (tuning["signal GHz"], tuning["image GHz"]) == ("492.160651", "480.160651")
    assert tuning["kHz a channel"] == "62500.000"
    assert float(tuning["km/s"]) == pytest.approx(299792.458 * 62.5e6 / 492.160651e9, abs=1e-4)
    (counts,) = table(tables, "counts on disk")
    assert counts["layout"].startswith("16.4 kB of int32 counts in 2 file(s)")


def test_the_overview_warns_once_for_all_scans(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    simulate(tmp_path / "l0.zarr", SimulationConfig(shape=(64, 4, 1, 2, 8), n_scans=2, night=True))
    (overview,) = inspect_store(tmp_path / "l0.zarr", None, Settings())
    assert not any("slow" in note for note in overview.notes)  # what the simulator writes is read fast
    assert next(iter(overview.rows))[5] == "16.4 kB"
    monkeypatch.setattr("calib_gpu.inspection.layout.MANY_CHUNKS", 8)
    (overview,) = inspect_store(tmp_path / "l0.zarr", None, Settings())
    (warning,) = (note for note in overview.notes if "slow" in note)
    assert "16 small chunks of 1.02 kB" in warning
    assert warning.endswith("(2 scan(s), e.g. scan_025650)")


def test_an_off_without_data_is_named(tmp_path: Path) -> None:
    scan = small_scan(shape=(32, 2, 1, 1))
    scan.counts[..., 3] = np.nan
    scan.store(tmp_path / "l0.zarr")
    (pairing,) = (t for t in inspect_store(tmp_path / "l0.zarr", ScanId(25650), Settings()) if "reference" in t.title)
    assert any(note.endswith("OFF subscan 3") for note in pairing.notes)


def test_sizes_of_l1_are_those_on_disk(tmp_path: Path) -> None:
    small_scan(shape=(32, 2, 1, 2)).store(tmp_path / "l0.zarr")
    calibrate(tmp_path / "l0.zarr", tmp_path / "l1.zarr")
    arrays = table(inspect_store(tmp_path / "l1.zarr", ScanId(25650), Settings()), "arrays")
    for row in arrays:
        folder = tmp_path / "l1.zarr" / "scan_025650" / row["array"]
        assert row["on disk"] == size_text(sum(p.stat().st_size for p in folder.rglob("*") if p.is_file()))


def test_l1_tells_the_stored_meaning(tmp_path: Path) -> None:
    l0 = small_scan(shape=(16, 2, 1, 1)).store(tmp_path / "l0.zarr")
    for atmosphere, there in (("none", True), ("auto", False)):
        l1 = tmp_path / f"{atmosphere}.zarr"
        calibrate(l0, l1, Settings(atmosphere=atmosphere, workers=1, quiet=True))
        meanings = {
            row["array"]: row["meaning"] for row in table(inspect_store(l1, ScanId(25650), Settings()), "arrays")
        }
        for array in ("spectra", "t_sys"):
            assert ("not corrected for the atmosphere" in meanings[array]) is there


def test_sizes_for_people() -> None:
    assert [size_text(n) for n in (0, 999, 1000, 65536, 999_600, 5e9, 2e13)] == [
        "0 B", "999 B", "1 kB", "65.5 kB", "1 MB", "5 GB", "20 TB",
    ]  # fmt: skip


def test_one_band_is_not_called_double_sideband(tmp_path: Path) -> None:
    from calib_gpu.qa.products import open_products
    from calib_gpu.qa.sky_check import sidebands

    for g_sig, kind, column in ((1.0, "SSB", "T_rec K"), (0.5, "DSB", "T_rec,DSB K")):
        scan = small_scan(shape=(16, 2, 1, 1))
        for name in ("gain_sig", "gain_img"):
            del scan.source[name]
        l0, l1 = scan.store(tmp_path / f"{kind}.zarr"), tmp_path / f"{kind}_l1.zarr"
        settings = Settings(g_sig=g_sig, pwv=0.6, workers=1, quiet=True)
        calibrate(l0, l1, settings)
        assert sidebands(open_products(l1, ScanId(25650))) == kind
        assert column in table(inspect_store(l0, ScanId(25650), settings), "loads (")[0]
