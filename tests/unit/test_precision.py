"""T_A* rounded far below its noise (setting ``precision``): bounds, bias, what is left alone, and the codecs."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numcodecs.blosc
import numpy as np
import pytest
import tensorstore
import zarr

import calib_gpu
from calib_gpu.backend import get_backend
from calib_gpu.physics.calibration import SampleRule, radiometer_quantum
from calib_gpu.simulate import realistic, simulate
from calib_gpu.store import codecs

SCAN = "scan_025650"


@pytest.fixture(scope="module")
def night(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("precision")
    simulate(folder / "l0.zarr", realistic("tiny"))
    return folder / "l0.zarr"


def calibrated(night: Path, name: str, **settings: Any) -> Any:
    path = night.parent / f"{name}.zarr"
    report = calib_gpu.calibrate(night, path, calib_gpu.Settings(**settings), scans=[25650])
    assert report.exit_code == 0, report.scans[0].message
    return zarr.open_group(path / SCAN, mode="r")


@pytest.mark.parametrize(
    ("t_sys", "bits", "expected"),
    [
        # sigma = T_sys / sqrt(1e6 Hz * 4 s) = T_sys / 2000
        ([2000.0, 4000.0], 6, 2.0**-6),  # sigma = 1 is a power of two itself
        ([1999.9, 4000.0], 6, 2.0**-7),
        ([4100.0, np.nan, 9e9], 3, 2.0**-2),  # sigma = 2.05
        ([-5.0, 0.0, 2000.0], 1, 2.0**-1),
        ([np.nan, np.nan], 6, 0.0),
        ([-5.0, 0.0], 6, 0.0),
    ],
)
def test_the_quantum_is_the_power_of_two_below_the_noise(t_sys: list[float], bits: int, expected: float) -> None:
    assert radiometer_quantum(np.array(t_sys), 1e6, 4.0, bits) == expected


@pytest.mark.parametrize("time", [0.0, -1.0, np.nan])
def test_without_a_time_nothing_is_rounded(time: float) -> None:
    assert radiometer_quantum(np.array([1000.0]), 1e6, time, 6) == 0.0


@pytest.mark.parametrize(("precision", "bits"), [("auto", 6), (3, 3), (12, 12)])
def test_a_night_rounded(night: Path, precision: str | int, bits: int) -> None:
    exact, rounded = calibrated(night, "exact"), calibrated(night, f"bits{bits}", precision=precision)
    values, truth = rounded["spectra"][:], exact["spectra"][:]
    np.testing.assert_array_equal(rounded["flags"][:], exact["flags"][:])
    np.testing.assert_array_equal(np.isnan(values), np.isnan(truth))
    np.testing.assert_array_equal(rounded["t_sys"][:], exact["t_sys"][:])
    quantum = rounded["quantum"][:]  # [R, A, S]
    t_sys, t_on = exact["t_sys"][:], exact["exptime_on"][:]
    spacing = abs(np.diff(exact["frequency_signal"][:2])[0])
    sigma = np.nanmin(t_sys, axis=0) / np.sqrt(spacing * t_on)
    assert np.all(quantum <= sigma / 2.0**bits)
    assert np.all(quantum > sigma / 2.0 ** (bits + 1) * (1 - 1e-12))
    np.testing.assert_array_equal(np.frexp(quantum)[0], 0.5)
    steps = values / quantum
    good = ~np.isnan(values)
    np.testing.assert_array_equal(steps[good], np.rint(steps[good]))
    error = ((values - truth) / quantum)[good]
    assert np.abs(error).max() <= 0.5
    # uniform between -1/2 and 1/2: mean 0, variance 1/12, each within five standard errors
    n = error.size
    assert abs(error.mean()) < 5.0 * np.sqrt(1.0 / 12.0 / n)
    assert abs(error.var() - 1.0 / 12.0) < 5.0 * np.sqrt(1.0 / 180.0 / n)
    assert f"2^-{bits}" in rounded["spectra"].attrs["precision"]
    assert "precision" not in exact["spectra"].attrs
    assert "quantum" not in exact


def test_the_noise_grows_by_less_than_1e_4(night: Path) -> None:
    exact, rounded = calibrated(night, "exact"), calibrated(night, "bits6", precision="auto")
    good = ~np.isnan(exact["spectra"][:])
    added = (rounded["spectra"][:] - exact["spectra"][:])[good].var()
    noise = np.nanvar(np.diff(exact["spectra"][:], axis=1)) / 2.0
    assert np.sqrt(1.0 + added / noise) - 1.0 < 1e-4


def test_rounding_is_half_to_even_and_leaves_nan_alone() -> None:
    on = np.array([[[[3], [5], [7], [-1]]]], np.int32)
    spectra, flags = np.empty(on.shape), np.empty(on.shape, np.uint16)
    get_backend("numpy").calibrate_tile(
        on, np.zeros((1, 1, 4)), np.full((1, 1, 4), 0.125), np.zeros((1, 1, 4), np.uint16), np.array([[0.25]]),
        SampleRule(None, None), 1, spectra[:, :, None], flags[:, :, None],
    )  # fmt: skip
    assert spectra.ravel()[:3].tolist() == [0.5, 0.5, 1.0]  # 0.375, 0.625 and 0.875 K
    assert np.isnan(spectra.ravel()[3])
    assert flags.ravel().tolist() == [0, 0, 0, 512]


@pytest.mark.parametrize("codec", ["zstd", "blosc_zstd", "blosc_lz4"])
@pytest.mark.parametrize("precision", ["off", "auto"])
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_every_codec_is_read_by_others(night: Path, codec: str, precision: str, dtype: str) -> None:
    given = {"precision": precision, "dtype": dtype}
    plain = calibrated(night, f"plain-{precision}-{dtype}", codec="zstd", **given)["spectra"][:]
    name = f"{codec}-{precision}-{dtype}"
    np.testing.assert_array_equal(calibrated(night, name, codec=codec, **given)["spectra"][:], plain)
    path = night.parent / f"{name}.zarr" / SCAN / "spectra"
    store = tensorstore.open({"driver": "zarr3", "kvstore": {"driver": "file", "path": str(path)}}).result()
    np.testing.assert_array_equal(store.read().result(), plain)


def test_auto_takes_the_codec_of_the_data(night: Path) -> None:
    calibrated(night, "exact")
    calibrated(night, "bits6", precision="auto")

    def codecs(name: str) -> list[str]:
        document = json.loads((night.parent / f"{name}.zarr" / SCAN / "spectra" / "zarr.json").read_bytes())
        return [c["name"] for c in document["codecs"][0]["configuration"]["codecs"]]

    assert codecs("exact") == ["bytes", "zstd"]
    assert codecs("bits6") == ["bytes", "blosc", "crc32c"]


@pytest.mark.parametrize("settings", [{}, {"precision": "auto"}, {"codec": "blosc_zstd", "dtype": "float32"}], ids=str)
def test_zarrs_reads_l1(night: Path, settings: dict[str, Any]) -> None:
    """The Rust implementation of Zarr, through its codec pipeline for zarr-python."""
    pytest.importorskip("zarrs")
    name = "-".join(["zarrs", *map(str, settings.values())])
    calibrated(night, name, **settings)
    path = str(night.parent / f"{name}.zarr" / SCAN)
    arrays = ("spectra", "flags", "t_sys", "gamma", "sobsmode", "quantum" if "precision" in settings else "pwv")
    plain = {a: zarr.open_group(path, mode="r")[a][...] for a in arrays if a in zarr.open_group(path, mode="r")}
    with zarr.config.set(
        {"codec_pipeline.path": "zarrs.ZarrsCodecPipeline", "codec_pipeline.validate_checksums": True}
    ):
        group = zarr.open_group(path, mode="r")
        assert type(group["spectra"].async_array.codec_pipeline).__module__.startswith("zarrs")
        for a, expected in plain.items():
            np.testing.assert_array_equal(group[a][...], expected)


def test_blosc_gives_the_same_bytes_in_every_thread() -> None:
    """Its own threads would order the blocks of a chunk by chance."""
    chunk = np.rint(np.random.default_rng(2).normal(size=1 << 17) * 64.0) / 64.0
    for name in ("blosc_zstd", "blosc_lz4"):
        assert len({codecs.Compressor(name).encode(chunk) for _ in range(150)}) == 1
    assert numcodecs.blosc.use_threads is False


@pytest.mark.parametrize("name", ["zstd", "blosc_zstd", "blosc_lz4"])
@pytest.mark.parametrize("at_once", [True, False])
def test_chunks_encoded_together_are_those_encoded_alone(
    monkeypatch: pytest.MonkeyPatch, name: str, at_once: bool
) -> None:
    monkeypatch.setattr(codecs, "_SEVERAL_AT_ONCE", at_once and codecs._SEVERAL_AT_ONCE)
    rng = np.random.default_rng(3)
    noise, flags = rng.normal(size=(5, 4096, 8)), rng.integers(0, 2, (5, 4096, 8)).astype(np.uint16)
    some, plain = codecs.Compressor(name, 1), codecs.Compressor("zstd", -1)
    chunks = [
        *((some, x) for x in noise),
        *((plain, x) for x in flags),
        (some, noise[0, :, 0].copy()),
        (plain, flags[0, :1]),
    ]
    encoded = codecs.encode_all(chunks)
    assert [bytes(x) for x in encoded] == [how.encode(x) for how, x in chunks]


@pytest.mark.parametrize("kind", ["subscan", "dump"])
def test_the_quantum_counts_the_dumps_that_are_there(tmp_path: Path, kind: str) -> None:
    """Where L0 does not tell the number of dumps, padding must not make a dump look shorter than it is."""
    simulate(tmp_path / "l0.zarr", realistic("tiny", padding=3))
    group = tmp_path / "l0.zarr" / SCAN / "source"
    shutil.rmtree(group / "n_dump")
    if kind == "dump":
        document = json.loads((group.parent / "zarr.json").read_bytes())
        document["attributes"]["exptime_kind"] = "dump"
        (group.parent / "zarr.json").write_text(json.dumps(document))
    rounded = calibrated(tmp_path / "l0.zarr", "rounded", precision="auto")
    quantum, t_on = rounded["quantum"][:], rounded["exptime_on"][:]
    spacing = abs(np.diff(rounded["frequency_signal"][:2])[0])
    sigma = np.nanmin(rounded["t_sys"][:], axis=0) / np.sqrt(spacing * t_on)
    assert np.all(quantum <= sigma / 64.0)
    assert np.all(quantum > sigma / 128.0 * (1 - 1e-12))


@pytest.mark.parametrize(
    ("on", "factor", "quantum", "dtype", "expected"),
    [
        (3, 1e30, 2.0**40, np.float32, 3e30),  # beyond the quantum: as it is
        (2**31 - 1, 1e38, 2.0**100, np.float32, None),  # overflows float32: flagged
        (1e306, 1.0, 2.0**-10, np.float64, 1e306),  # value / quantum would overflow
    ],
)
def test_extremes_are_flagged_as_without_rounding(
    on: float, factor: float, quantum: float, dtype: type, expected: float | None
) -> None:
    counts = np.array([[[[on]]]], np.float64 if isinstance(on, float) else np.int64)
    results = []
    for q in (0.0, quantum):
        spectra, flags = np.empty((1, 1, 1, 1, 1), dtype), np.empty((1, 1, 1, 1, 1), np.uint16)
        get_backend("numpy").calibrate_tile(
            counts, np.zeros((1, 1, 1)), np.full((1, 1, 1), factor), np.zeros((1, 1, 1), np.uint16), np.array([[q]]),
            SampleRule(None, None), 1, spectra, flags,
        )  # fmt: skip
        results.append((spectra.item(), flags.item()))
    assert results[0][1] == results[1][1] == (2048 if expected is None else 0)
    if expected is not None:
        assert results[1][0] == pytest.approx(expected, rel=1e-6)
