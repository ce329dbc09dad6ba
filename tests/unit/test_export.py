"""SDFITS read back by astropy: the right numbers, axes, times and places; files are whole or absent. Other readers: interop."""

from __future__ import annotations

import subprocess
import sys
import tracemalloc
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

from calib_gpu import ConfigError, OutputError, StoreUnusable, calibrate
from calib_gpu.export import SdfitsOptions, export_sdfits
from calib_gpu.export.columns import COLUMNS
from calib_gpu.export.fits_table import FitsWriter
from calib_gpu.export.sky import position
from calib_gpu.store.l0_write import L0Writer
from export_store import CENTRE, REST, export, group, make, place
from small_scan import small_scan, two_bands

fits = pytest.importorskip("astropy.io.fits")


@pytest.fixture(scope="module")
def l1(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(tmp_path_factory.mktemp("export"))


@pytest.fixture(scope="module")
def file(l1: Path) -> Path:
    return export(l1)


def test_every_spectrum_of_l1_is_a_row(l1: Path, file: Path) -> None:
    with fits.open(file) as hdus:
        hdus.verify("exception")
        assert [hdu.header.get("EXTNAME") for hdu in hdus] == [None, "SINGLE DISH", "SINGLE DISH"]
        assert [(hdu.header["NAXIS2"], hdu.header["NCHAN"]) for hdu in hdus[1:]] == [(32, 32), (64, 64)]
        assert file.stat().st_size % 2880 == 0
        seen = set()
        for hdu in hdus[1:]:
            assert hdu.columns["DATA"].unit == "K"
            for row in hdu.data:
                stored = group(l1, int(row["SCAN"]))
                d, r, a, s = place(row)
                seen.add((int(row["SCAN"]), d, r, a, s))
                np.testing.assert_array_equal(row["DATA"], stored["spectra"][:, d, r, a, s])
                np.testing.assert_array_equal(row["FLAGS"], stored["flags"][:, d, r, a, s])
                assert (np.isnan(row["DATA"]) == (row["FLAGS"] != 0)).all()
                t_sys = stored["t_sys"][:, r, a, s]
                assert row["TSYS"] == np.median(t_sys[np.isfinite(t_sys)])
                assert row["SUBSCAN"] == stored["on_index"][s] == (1, 2, 4)[s]
                assert (row["OBJECT"], row["SAMPLER"], row["FEED"]) == ("test source", f"PX{r}{a}", 2 * r + a + 1)
        expected = {
            (n, d, r, a, s)
            for n in (25650, 25651, 25652) for d in range(3) for r in range(2) for a in range(2) for s in range(3)
            if not (d == 2 and s == 0)
        }  # fmt: skip
        assert seen == expected  # padding has no row


def test_axes_times_and_places(l1: Path, file: Path) -> None:
    from astropy.wcs import WCS

    with fits.open(file) as hdus:
        for hdu in hdus[1:]:
            n = hdu.header["NCHAN"]
            for row in hdu.data:
                d, r, a, s = place(row)
                stored = group(l1, int(row["SCAN"]))
                nu = row["CRVAL1"] + (np.arange(1, n + 1) - row["CRPIX1"]) * row["CDELT1"]
                np.testing.assert_allclose(nu, stored["frequency_signal"][:], rtol=1e-13)
                image = row["IMAGFREQ"] - (np.arange(1, n + 1) - row["CRPIX1"]) * row["CDELT1"]
                np.testing.assert_allclose(image, stored["frequency_image"][:], rtol=1e-13)
                assert (row["CTYPE1"], row["VELDEF"], row["RESTFREQ"]) == ("FREQ-OBS", "RADI-OBS", REST)
                # dumps of 3 s around the mid-time of the subscan, which is 30 s after the one before
                n_dump = (2, 3, 3)[s]
                mid = datetime(2023, 2, 25) + timedelta(days=int(row["SCAN"]) / 100, seconds=30 * (1, 2, 4)[s])
                begin = mid + timedelta(seconds=3.0 * (d - n_dump / 2))
                assert abs(datetime.fromisoformat(row["DATE-OBS"]) - begin) < timedelta(milliseconds=1)
                assert (row["EXPOSURE"], row["DURATION"]) == (3.0, 3.0)
                dump = 5 * d + (1, 2, 4)[s]
                off = 0.01 * dump + 0.1 * r + 0.05 * a, -0.02 * dump + 0.05 * r + 0.025 * a
                assert (row["OFFLON"], row["OFFLAT"]) == pytest.approx(off, abs=1e-12)
                wcs = WCS(naxis=2)  # the tangent plane as astropy has it
                wcs.wcs.ctype, wcs.wcs.crval, wcs.wcs.cdelt = ["RA---TAN", "DEC--TAN"], CENTRE, [1.0, 1.0]
                wcs.wcs.crpix = [1.0, 1.0]
                assert (row["CRVAL2"], row["CRVAL3"]) == pytest.approx(wcs.wcs_pix2world([off], 0)[0], abs=1e-10)
                assert row["ELEVATIO"] == pytest.approx(52.0)


def test_means_over_dumps(l1: Path, tmp_path: Path) -> None:
    export_sdfits(l1, tmp_path / "mean.fits", SdfitsOptions([25650], "dumps"))
    with fits.open(tmp_path / "mean.fits") as hdus:
        assert len(hdus[1].data) == 3 * 4
        stored = group(l1, 25650)
        for row in hdus[1].data:
            _, r, a, s = place(row)
            n = (2, 3, 3)[s]
            spectra, flags = stored["spectra"][:, :n, r, a, s], stored["flags"][:, :n, r, a, s]
            for c in (0, 10, 20):
                good = spectra[c][flags[c] == 0]
                if good.size:
                    assert (row["DATA"][c], row["FLAGS"][c]) == (pytest.approx(good.mean(), rel=1e-14), 0)
                else:
                    assert np.isnan(row["DATA"][c])
                    assert row["FLAGS"][c] == np.bitwise_or.reduce(flags[c]) != 0
            assert (row["INTNUM"], row["EXPOSURE"]) == (-1, 3.0 * n)
            dumps = 5 * np.arange(n) + (1, 2, 4)[s]
            assert row["OFFLON"] == pytest.approx(0.01 * dumps.mean() + 0.1 * r + 0.05 * a)


def test_what_l1_does_not_tell_is_said(l1: Path, tmp_path: Path) -> None:
    notes = export_sdfits(l1, tmp_path / "a.fits")
    assert [any(word in note for note in notes) for word in ("--centre", "--rest-ghz")] == [True] * 2
    row = fits.getdata(tmp_path / "a.fits", 1)[5]
    assert (row["CTYPE2"], row["CRVAL2"], row["CRVAL3"]) == ("LON-OFF", row["OFFLON"], row["OFFLAT"])
    assert row["RESTFREQ"] == row["CRVAL1"]
    options = SdfitsOptions(frame="lsrk", centre=(10.0, 0.5), system="galactic")
    export_sdfits(l1, tmp_path / "b.fits", options)
    row = fits.getdata(tmp_path / "b.fits", 1)[5]
    assert [row[n] for n in ("CTYPE1", "VELDEF", "CTYPE2", "CTYPE3", "RADESYS")] == [
        "FREQ-LSR", "RADI-LSR", "GLON", "GLAT", "GALACTIC",
    ]  # fmt: skip


def test_attributes_that_l1_may_have(tmp_path: Path) -> None:
    """Who knows more than L1 does writes it to the attributes of the scan."""
    l1 = make(tmp_path)
    export_sdfits(l1, tmp_path / "a.fits", SdfitsOptions([25650]))
    zarr.open_group(str(l1), mode="r+")["scan_025650"].attrs.update(
        time_ref="start", frequency_frame="lsrk", rest_frequency_hz=REST, telescope="FYST", project="P1"
    )
    notes = export_sdfits(l1, tmp_path / "b.fits", SdfitsOptions([25650]))
    assert not any(word in " ".join(notes) for word in ("--frame", "--rest-ghz"))
    before, after = (fits.getdata(tmp_path / name, 1) for name in ("a.fits", "b.fits"))
    for k, n_dump in ((0, 2), (-1, 3)):
        shift = datetime.fromisoformat(after["DATE-OBS"][k]) - datetime.fromisoformat(before["DATE-OBS"][k])
        assert abs(shift - timedelta(seconds=1.5 * n_dump)) < timedelta(milliseconds=1)
    assert [after[n][0] for n in ("CTYPE1", "RESTFREQ", "TELESCOP", "PROJID")] == ["FREQ-LSR", REST, "FYST", "P1"]


def test_what_l0_tells_is_in_the_file(tmp_path: Path) -> None:
    """Frame, rest frequency, position, site, time at the start: L0's attributes, through L1, without any option."""
    store, site = L0Writer(tmp_path / "l0.zarr", {"telescope": "FYST"}), (-67.74, -22.99, 5611.8)
    for number, more in ((25650, {}), (25651, {"site_lon_deg": -67.0}), (25652, {"offset_frame": "horizontal"})):
        scan = small_scan(number, shape=(16, 2, 1, 1), mjd=60000.0 + number / 100)
        scan.source["otf_lon"] = np.full((2, 5), 0.1)
        scan.attrs |= {
            "time_ref": "start", "rest_frequency_hz": REST, "project": "P1", "frequency_frame": "LSRK", "frame_velocity_m_s": 1e3,
            "source_lon_deg": CENTRE[0], "source_lat_deg": CENTRE[1],
            **dict(zip(("site_lon_deg", "site_lat_deg", "site_height_m"), site, strict=True)), **more,
        }  # fmt: skip
        scan.write(store)
    calibrate(tmp_path / "l0.zarr", tmp_path / "l1.zarr")
    notes = export_sdfits(tmp_path / "l1.zarr", tmp_path / "a.fits")
    assert [any(w in n for n in notes) for w in ("--frame", "--rest", "horizontal")] == [False, False, True]
    with fits.open(tmp_path / "a.fits") as hdus:
        sites = [tuple(h.header[k] for k in ("SITELONG", "SITELAT", "SITEELEV")) for h in hdus[1:]]
        assert sites == [site, (-67.0, *site[1:])]
        rows = {
            int(row["SCAN"]): row for h in hdus[1:] for row in h.data if row["INTNUM"] == 0 and row["PROCSEQN"] == 1
        }
    row = rows[25650]
    assert [row[n] for n in ("CTYPE1", "RESTFREQ", "TELESCOP", "PROJID", "CTYPE2")] == [
        "FREQ-LSR", REST, "FYST", "P1", "RA",
    ]  # fmt: skip
    assert row["CRVAL2"] == pytest.approx(CENTRE[0] + 0.1 / np.cos(np.radians(CENTRE[1])), abs=1e-6)
    # the first ON begins 30 s after mjd, which is a start
    begin = datetime(2023, 2, 25) + timedelta(days=256.5, seconds=30.0)
    assert abs(datetime.fromisoformat(row["DATE-OBS"]) - begin) < timedelta(milliseconds=1)
    assert (rows[25652]["CTYPE2"], rows[25652]["CRVAL2"]) == ("LON-OFF", pytest.approx(0.1))


def test_float32_and_no_atmosphere(tmp_path: Path) -> None:
    l1 = make(tmp_path, "float32", atmosphere="none")
    notes = export_sdfits(l1, tmp_path / "a.fits")
    assert any("not corrected for the atmosphere" in note for note in notes)
    data = fits.getdata(tmp_path / "a.fits", 1)
    assert data["DATA"].dtype == ">f4"
    assert data["TEMPSCAL"][0] == "TA'"
    row = data[7]
    d, r, a, s = place(row)
    np.testing.assert_array_equal(row["DATA"], group(l1, 25651)["spectra"][:, d, r, a, s])


def test_bands_of_a_scan(tmp_path: Path) -> None:
    calibrate(two_bands(tmp_path / "l0.zarr"), tmp_path / "l1.zarr")
    export_sdfits(tmp_path / "l1.zarr", tmp_path / "a.fits")
    rows = fits.getdata(tmp_path / "a.fits", 1)
    assert {(r["IFNUM"], r["FRONTEND"]) for r in rows} == {(0, "HFA"), (1, "LFA")}


def test_the_same_l1_gives_the_same_bytes(l1: Path, file: Path, tmp_path: Path) -> None:
    options = SdfitsOptions(rest_ghz=REST / 1e9, centre=CENTRE, frame="topocentric", site=(-67.7, -22.9, 5600.0))
    export_sdfits(l1, tmp_path / "again.fits", options)
    assert (tmp_path / "again.fits").read_bytes() == file.read_bytes()


def test_a_file_is_whole_or_absent(l1: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "a.fits"
    calls = {"n": 0}
    append = FitsWriter._append

    def full(self: FitsWriter, data: bytes) -> None:
        calls["n"] += 1
        if calls["n"] > 9:
            raise self._cannot(OSError(28, "No space left on device"))
        append(self, data)

    monkeypatch.setattr(FitsWriter, "_append", full)
    with pytest.raises(OutputError, match="No space left"):
        export_sdfits(l1, out)
    assert list(tmp_path.iterdir()) == []
    out.write_text("old")
    with pytest.raises(OutputError, match="--overwrite"):
        export_sdfits(l1, out)
    calls["n"] = 0
    with pytest.raises(OutputError, match="No space left"):
        export_sdfits(l1, out, SdfitsOptions(overwrite=True))
    assert out.read_text() == "old"
    monkeypatch.undo()
    export_sdfits(l1, out, SdfitsOptions(overwrite=True))
    assert [p.name for p in tmp_path.iterdir()] == ["a.fits"]
    with pytest.raises(OutputError, match="cannot write"):
        export_sdfits(l1, tmp_path / "nowhere" / "a.fits")


def test_memory_is_that_of_a_pixel_and_subscan(tmp_path: Path) -> None:
    modes = ("OTF-OFF", *("OTF-ON",) * 20)
    small_scan(modes=modes, shape=(1024, 8, 1, 2)).store(tmp_path / "l0.zarr")
    calibrate(tmp_path / "l0.zarr", tmp_path / "l1.zarr")
    export_sdfits(tmp_path / "l1.zarr", tmp_path / "first.fits")  # imports, caches
    tracemalloc.start()
    export_sdfits(tmp_path / "l1.zarr", tmp_path / "a.fits")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    spectrum = 1024 * 8 * 8
    assert (tmp_path / "a.fits").stat().st_size > 40 * spectrum
    assert peak < 12 * spectrum


@pytest.mark.parametrize(
    ("options", "word"),
    [({"average": "all"}, "none | dumps"), ({"frame": "bary"}, "topocentric | lsrk"), ({"system": "fk4"}, "icrs"),
     ({"rest_ghz": -1.0}, "GHz, > 0"), ({"rest_ghz": REST}, "looks like Hz"), ({"centre": (0.0, 91.0)}, "longitude, latitude")],
)  # fmt: skip
def test_options_that_are_wrong(options: dict[str, Any], word: str) -> None:
    with pytest.raises(ConfigError) as error:
        SdfitsOptions(**options)
    assert word in str(error.value)


def test_wrong_input(l1: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="25999"):
        export_sdfits(l1, tmp_path / "a.fits", SdfitsOptions([25999]))
    with pytest.raises(StoreUnusable, match="not an L1 store"):
        export_sdfits(l1.with_name("l0.zarr"), tmp_path / "a.fits")
    with pytest.raises(StoreUnusable, match="no such directory"):
        export_sdfits(tmp_path / "nothing", tmp_path / "a.fits")
    assert list(tmp_path.iterdir()) == []


def test_on_the_command_line(l1: Path, tmp_path: Path) -> None:
    call = [sys.executable, "-c", "from calib_gpu.cli import main; main()", "export", "sdfits", str(l1), "-o", "a.fits"]
    more = ["--scans", "25650", "--rest-ghz", "492.160651", "--centre=83.81,-5.37", "--frame", "topocentric"]
    done = subprocess.run([*call, *more], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "32 spectra of 1 scan(s)\nSDFITS: a.fits\n"), done.stderr
    assert fits.getdata(tmp_path / "a.fits", 1)["RESTFREQ"][0] == REST
    done = subprocess.run(
        [*call, "--centre", "here", "--overwrite"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert (done.returncode, "LON,LAT" in done.stderr) == (64, True)


def test_names_of_columns_are_those_of_fits() -> None:
    names = [column.name for column in COLUMNS]
    assert len(set(names)) == len(names)
    assert all(len(name) <= 8 and name == name.upper() for name in names)


def test_positions_at_the_pole_and_at_the_seam() -> None:
    lon, lat = position((359.99, 0.0), [0.02, -0.02], [0.0, 0.0])
    assert lon == pytest.approx([0.01, 359.97], abs=1e-8)
    lon, lat = position((0.0, 90.0), [0.5, 0.0], [0.0, -0.5])
    assert lat == pytest.approx(90.0 - np.degrees(np.arctan(np.radians(0.5))), abs=1e-12)
    assert lon == pytest.approx([90.0, 0.0], abs=1e-9)
