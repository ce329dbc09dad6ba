"""The SDFITS reader on files made here: which rows become which subscans, times, temperatures, and what is refused."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import calib_gpu
from calib_gpu import CalibError, ConfigError, OutputError, Settings, StoreUnusable
from calib_gpu.ingest.sdfits import ingest_sdfits
from calib_gpu.records import ScanId
from calib_gpu.store.l0 import L0Store

fits = pytest.importorskip("astropy.io.fits")

Row = dict[str, Any]
C = 64
LOADS = {
    0: {"Observing": 300.0, "Cold1": 200.0, "Cold2": 900.0},
    1: {"Observing": 300.0, "Cold1": 900.0, "Cold2": 200.0},
}


def row(scan: int, second: float, level: float, **columns: Any) -> Row:
    """One integration of feed 0 with a flat spectrum; DATE-OBS is ``second`` s after 2024-01-01 00:00."""
    start = np.datetime64("2024-01-01T00:00:00.00", "ms") + np.timedelta64(round(1e3 * second), "ms")
    base = {
        "DATA": np.full(C, level, np.float32), "OBJECT": "M82", "OBSMODE": "Nod:NONE:TPNOCAL", "CALPOSITION": "Observing",
        "FRONTEND": "Rcvr68_92", "CTYPE1": "FREQ-OBS", "SIG": "T", "CAL": "F", "DATE-OBS": str(start), "SCAN": scan, "FDNUM": 0,
        "IFNUM": 1, "PLNUM": 0, "PROCSEQN": 1, "EXPOSURE": 0.9, "DURATION": 1.0, "CRVAL1": 87e9, "CRPIX1": 32.5, "CDELT1": -1e6,
        "RESTFREQ": 87.1e9, "VELOCITY": 0.0, "ELEVATIO": 45.0, "AZIMUTH": 359.0, "TAMBIENT": 270.0, "PRESSURE": 700.0,
        "FEEDXOFF": 0.0, "FEEDEOFF": 0.0, "TWARM": 280.0,
    }  # fmt: skip
    return base | columns


def calseq(scan: int = 10, feed: int = 0, start: float = 0.0, **columns: Any) -> list[Row]:
    spread = enumerate(LOADS[feed].items())
    fixed = {"OBSMODE": "CALSEQ:NONE:TPNOCAL", "FDNUM": feed} | columns
    return [row(scan, start + 10.0 * k, level, CALPOSITION=position, **fixed) for k, (position, level) in spread]


def nod(scan: int = 11, feed: int = 0, dumps: tuple[int, int] = (2, 3), **columns: Any) -> list[Row]:
    """Feed 0 is on source in the first scan, feed 1 in the second; the source adds 70 counts to 300."""
    rows = []
    for k in (0, 1):
        on = k == feed
        for d in range(dumps[k]):
            at = {"FEEDXOFF": 0.0 if on else 0.08, "PROCSEQN": k + 1, "FDNUM": feed}
            rows.append(row(scan + k, 40.0 + 20.0 * k + 2.0 * d, 370.0 if on else 300.0, **(at | columns)))
    return rows


def write(path: Path, rows: Sequence[Row], **header: Any) -> Path:
    columns = []
    for name in rows[0]:
        values = np.array([r[name] for r in rows])
        form = (
            f"{C}E"
            if name == "DATA"
            else "24A"
            if values.dtype.kind == "U"
            else "D"
            if values.dtype.kind == "f"
            else "J"
        )
        columns.append(fits.Column(name, form, array=values))
    table = fits.BinTableHDU.from_columns(columns, name="SINGLE DISH")
    table.header.update(header)
    fits.HDUList([fits.PrimaryHDU(), table]).writeto(path)
    return path


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "l0.zarr"


def test_session_of_two_feeds(tmp_path: Path, out: Path) -> None:
    files = [write(tmp_path / f"{f}.fits", calseq(feed=f) + nod(feed=f)) for f in (0, 1)]
    lines = ingest_sdfits(files, out)
    assert [line.split(":")[0] for line in lines] == [f"scan_{n:06d}/band_F{f}I1P0" for n in (10, 11) for f in (0, 1)]
    store = L0Store(out)
    for feed, classes in ((0, ["OTF-ON", "OTF-OFF"]), (1, ["OTF-OFF", "OTF-ON"])):
        source = store.group(ScanId(11, f"band_F{feed}I1P0"), "source")
        assert source.shape == (C, 3, 1, 1, 2)
        assert source.arrays["sobsmode"].tolist() == classes
        assert source.arrays["n_dump"].tolist() == [2, 3]
        assert source.arrays["lloadsn"].tolist() == [10, 10]
        loads = store.group(ScanId(10, f"band_F{feed}I1P0"), "calibration")
        assert loads.arrays["sobsmode"].tolist() == ["HOT", "COLD", "SKY"]
        assert loads.tuning.same_as(source.tuning)


def test_coordinates(tmp_path: Path, out: Path) -> None:
    rows = nod()
    rows[1] |= {"AZIMUTH": 3.0, "ELEVATIO": 47.0}
    ingest_sdfits([write(tmp_path / "a.fits", calseq() + rows)], out)
    source = L0Store(out).group(ScanId(11, "band_F0I1P0"), "source")
    midnight = 60310.0  # 2024-01-01
    assert source.subscans[0].mjd == pytest.approx(midnight + (40.0 + 1.0 + 0.5) / 86400.0, abs=1e-9)
    assert source.subscans[1].time_us - source.subscans[0].time_us == 21_000_000
    assert source.arrays["exptime"] == pytest.approx([1.8, 2.7])
    assert np.degrees(source.arrays["azimuth"]) == pytest.approx([1.0, 359.0])
    assert np.degrees(source.arrays["elevation"]) == pytest.approx([46.0, 45.0])
    assert source.arrays["pamb"] == pytest.approx([700.0, 700.0])
    tuning = source.tuning
    assert (tuning.signal_0, tuning.spacing, tuning.ref_channel) == (87e9, -1e6, 31.5)
    assert source.attrs["rest_frequency_hz"] == 87.1e9


def test_load_temperatures(tmp_path: Path, out: Path) -> None:
    """T_cold = 54 K - 0.6 K (87 - 77) = 48 K at mid-band, which CRPIX1 = 32.5 makes CRVAL1."""
    ingest_sdfits([write(tmp_path / "a.fits", calseq() + nod())], out)
    loads = L0Store(out).group(ScanId(10, "band_F0I1P0"), "calibration")
    assert loads.arrays["thot"][0] == 280.0
    assert loads.arrays["tcold"][1] == pytest.approx(48.0)


def test_calibrated_line_has_the_right_level_and_sign(tmp_path: Path, out: Path) -> None:
    """70 counts, (J_h - J_c) / 700 counts: 23.2 K within the curvature of the Planck law, in both feeds."""
    ingest_sdfits([write(tmp_path / f"{f}.fits", calseq(feed=f) + nod(feed=f)) for f in (0, 1)], out)
    l1 = tmp_path / "l1.zarr"
    report = calib_gpu.calibrate(out, l1, Settings(atmosphere="none"))
    assert [scan.status for scan in report.scans] == ["ok", "ok"]
    zarr = pytest.importorskip("zarr")
    for feed in (0, 1):
        spectra = zarr.open_array(l1 / "scan_000011" / f"band_F{feed}I1P0" / "spectra", mode="r")[...]
        assert np.nanmean(spectra) == pytest.approx(70.0 * (280.0 - 48.0) / 700.0, rel=1e-3)


def test_header_keywords_stand_for_columns(tmp_path: Path, out: Path) -> None:
    rows = without("FRONTEND", without("RESTFREQ", calseq() + nod()))
    ingest_sdfits([write(tmp_path / "a.fits", rows, RESTFREQ=87.1e9, FRONTEND="Rcvr68_92")], out)
    assert L0Store(out).scan_ids() == [ScanId(10, "band_F0I1P0"), ScanId(11, "band_F0I1P0")]


def test_position_switching(tmp_path: Path, out: Path) -> None:
    rows = [
        row(11, 40.0, 300.0, OBSMODE="OffOn:PSWITCHOFF:TPNOCAL"),
        row(12, 60.0, 370.0, OBSMODE="OffOn:PSWITCHON:TPNOCAL", PROCSEQN=2),
    ]
    ingest_sdfits([write(tmp_path / "a.fits", calseq() + rows)], out)
    assert L0Store(out).subscan_classes(ScanId(11, "band_F0I1P0"), "source") == ["OTF-OFF", "OTF-ON"]


def test_missing_samples_stay_missing(tmp_path: Path, out: Path) -> None:
    rows = nod()
    rows[0]["DATA"][5] = np.nan
    ingest_sdfits([write(tmp_path / "a.fits", calseq() + rows)], out)
    source = L0Store(out).group(ScanId(11, "band_F0I1P0"), "source")
    counts = np.empty(source.shape, np.float32)
    source.counts.read(tuple(slice(0, n) for n in source.shape), counts)
    assert np.argwhere(np.isnan(counts[:, :2, 0, 0, 0])).tolist() == [[5, 0]]
    assert np.isnan(counts[:, 2, 0, 0, 0]).all()


def test_what_cannot_be_used_is_left_out_and_named(tmp_path: Path, out: Path) -> None:
    extra = [
        *nod(21, dumps=(1, 0)),
        *nod(31, FEEDXOFF=0.3),
        row(41, 300.0, 300.0, OBSMODE="Track:NONE:TPNOCAL"),
        *nod(51, CAL="T"),
        *calseq(61, start=400.0)[:2],
    ]
    lines = ingest_sdfits([write(tmp_path / "a.fits", calseq() + nod() + extra)], out)
    left = [line for line in lines if "left out" in line]
    assert [int(line[5:11]) for line in left] == [21, 31, 41, 51, 52, 61]
    for line, why in zip(left, ("without the other", "neither", "Track", "CAL T", "CAL T", "Cold2"), strict=True):
        assert why in line
    assert {s.number for s in L0Store(out).scan_ids()} == {10, 11}


def without(column: str, rows: list[Row]) -> list[Row]:
    return [{k: v for k, v in r.items() if k != column} for r in rows]


BROKEN = {
    "no loads": (lambda: nod(), StoreUnusable, "no hot and cold load"),
    "loads only": (lambda: calseq(), StoreUnusable, "no scan to calibrate"),
    "swapped": (lambda: [r | {"FDNUM": 1} for r in calseq() + nod()], StoreUnusable, "position and counts of the loads disagree"),
    "celsius": (lambda: calseq(TWARM=-3.9) + nod(), StoreUnusable, "TWARM.*-3.9"),
    "twice": (lambda: calseq() + nod() + nod(), StoreUnusable, "twice"),
    "two sources": (lambda: calseq() + nod() + nod(OBJECT="M81"), StoreUnusable, "not one value.*M81"),
    "no date": (lambda: calseq() + [r | {"DATE-OBS": "yesterday"} for r in nod()], StoreUnusable, "DATE-OBS.*yesterday"),
    "no frequency": (lambda: calseq() + nod(CRVAL1=np.nan), StoreUnusable, "CRVAL1"),
    "no column": (lambda: without("PROCSEQN", calseq() + nod()), StoreUnusable, "PROCSEQN: column is missing"),
}  # fmt: skip


@pytest.mark.parametrize("name", list(BROKEN))
def test_refused(name: str, tmp_path: Path, out: Path) -> None:
    rows, error, message = BROKEN[name]
    path = write(tmp_path / "a.fits", rows())
    with pytest.raises(error, match=message) as caught:
        ingest_sdfits([path], out)
    assert isinstance(caught.value, CalibError)
    assert str(path) in str(caught.value)
    assert [p.name for p in tmp_path.iterdir()] == ["a.fits"]


def test_files_that_are_not_sdfits(tmp_path: Path, out: Path) -> None:
    text, image, cut = tmp_path / "text.fits", tmp_path / "image.fits", tmp_path / "cut.fits"
    text.write_text("hello")
    fits.PrimaryHDU(np.zeros((3, 3))).writeto(image)
    whole = write(tmp_path / "whole.fits", calseq() + nod()).read_bytes()
    cut.write_bytes(whole[:-3000])
    reasons = {
        text: "cannot be read as FITS",
        image: "not GBT SDFITS",
        cut: "truncated",
        tmp_path / "no": "No such file",
    }
    for path, message in reasons.items():
        with pytest.raises(StoreUnusable, match=message):
            ingest_sdfits([path], out)
    with pytest.raises(ConfigError, match="no FITS file"):
        ingest_sdfits([], out)
    assert not out.exists()


def test_output_must_be_new(tmp_path: Path, out: Path) -> None:
    path = write(tmp_path / "a.fits", calseq() + nod())
    out.mkdir()
    ingest_sdfits([path], out)
    with pytest.raises(OutputError, match="exists already"):
        ingest_sdfits([path], out)


def test_folder_of_files(tmp_path: Path, out: Path) -> None:
    folder = tmp_path / "session"
    folder.mkdir()
    write(folder / "a.fits", calseq())
    write(folder / "b.fits", nod())
    assert len(ingest_sdfits([folder], out)) == 2


def test_without_astropy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, out: Path) -> None:
    monkeypatch.setitem(__import__("sys").modules, "astropy.io", None)
    with pytest.raises(ConfigError, match=r"pip install 'calib-gpu\[fits\]'"):
        ingest_sdfits([tmp_path / "a.fits"], out)
