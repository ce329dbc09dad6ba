"""The whole chain, ingest and calibrate, on real observations: GBT W-band, hot and cold load, a Nod on M82.

Expected numbers are dysh's and those of an independent NumPy script: see ``reference.json`` beside the data.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from numpy.typing import NDArray

import calib_gpu
from calib_gpu import Settings, StoreUnusable
from calib_gpu.ingest.sdfits import ingest_sdfits

pytest.importorskip("astropy")
pytestmark = pytest.mark.realdata

INNER = slice(1638, -1637)
FEEDS = (0, 1)
TREC = {"planck": (85.05, 126.51), "callen_welton": (83.0, 124.5)}


@pytest.fixture(scope="module")
def data() -> Path:
    folder = Path(os.environ.get("CALIB_GPU_TESTDATA", Path(__file__).parents[3] / "shared" / "data"))
    if not (folder / "gbt_wband_calseq_m82").is_dir():
        pytest.skip(f"no telescope data in {folder}: set CALIB_GPU_TESTDATA to the folder with gbt_wband_calseq_m82")
    return folder


@pytest.fixture(scope="module")
def reference(data: Path) -> dict[str, Any]:
    text = (data / "reference.json").read_text()
    return dict(json.loads(text)["gbt_wband_calseq_m82"])


@pytest.fixture(scope="module")
def l0(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("wband") / "l0.zarr"
    folder = data / "gbt_wband_calseq_m82"
    lines = ingest_sdfits([folder / "file0.fits", folder / "file1.fits"], out)
    assert [line.split(":")[0] for line in lines] == [
        f"scan_{scan:06d}/band_F{feed}I1P0" for scan in (130, 131) for feed in FEEDS
    ]
    return out


@pytest.fixture(scope="module")
def runs(l0: Path) -> dict[str, Path]:
    """L1 stores by convention of T_rec."""
    out = {}
    for convention in TREC:
        out[convention] = l0.with_name(f"l1_{convention}.zarr")
        report = calib_gpu.calibrate(l0, out[convention], Settings(atmosphere="none", trec_convention=convention))
        assert [scan.status for scan in report.scans] == ["ok", "ok"]
    return out


def _array(store: Path, feed: int, name: str, scan: int = 131) -> NDArray[Any]:
    array = zarr.open_array(store / f"scan_{scan:06d}" / f"band_F{feed}I1P0" / name, mode="r")
    return np.asarray(array[...])


def _load_mean(l0: Path, feed: int, kind: str) -> NDArray[Any]:
    classes = _array(l0, feed, "calibration/sobsmode", 130).tolist()
    return _array(l0, feed, "calibration/data_5d", 130)[:, 0, 0, 0, classes.index(kind)].astype(np.float64)


@pytest.mark.parametrize("feed", FEEDS)
def test_gain_is_that_of_dysh(runs: dict[str, Path], reference: dict[str, Any], feed: int) -> None:
    gain = _array(runs["planck"], feed, "gain")[INNER, 0, 0]
    assert gain.mean() * reference[f"feed{feed}"]["gain_K_per_count"] == pytest.approx(1.0, rel=1e-3)


@pytest.mark.parametrize("feed", FEEDS)
def test_system_temperature_of_the_sky_subscan(
    runs: dict[str, Path], l0: Path, reference: dict[str, Any], feed: int
) -> None:
    """The recipe of dysh with our gamma: sum(SKY) gamma / sum(HOT - COLD) over the inner 80 % of the band."""
    gamma = _array(runs["planck"], feed, "gamma")[INNER, 0, 0].mean()
    sky, hot, cold = (_load_mean(l0, feed, kind)[INNER] for kind in ("SKY", "HOT", "COLD"))
    t_sys = gamma * sky.mean() / (hot - cold).mean()
    assert t_sys == pytest.approx(reference[f"feed{feed}"]["tsys_K"], rel=1e-3)


@pytest.mark.parametrize("feed", FEEDS)
def test_system_temperature_of_the_nod(runs: dict[str, Path], reference: dict[str, Any], feed: int) -> None:
    """The sky drifts by less than 0.5 % in the two minutes between the loads and the second scan of the nod."""
    t_sys = _array(runs["planck"], feed, "t_sys")[INNER, 0, 0, 0]
    gain = _array(runs["planck"], feed, "gain")[INNER, 0, 0]
    assert np.isfinite(t_sys).all()
    assert (t_sys * gain).sum() / gain.sum() == pytest.approx(reference[f"feed{feed}"]["tsys_K"], rel=5e-3)


@pytest.mark.parametrize("convention", list(TREC))
@pytest.mark.parametrize("feed", FEEDS)
def test_receiver_temperature(runs: dict[str, Path], feed: int, convention: str) -> None:
    trec = _array(runs[convention], feed, "trec")[INNER, 0, 0]
    assert np.median(trec) == pytest.approx(TREC[convention][feed], rel=0.01)


@pytest.mark.parametrize("feed", FEEDS)
def test_m82_is_brighter_than_the_sky_beside_it(runs: dict[str, Path], feed: int) -> None:
    """The continuum of M82 in every integration and both feeds, far above the noise of the band; roles swapped turn it over.

    Feed 0 is on source in the first scan of the nod, feed 1 in the second: a drift of sky or receiver alone would give
    the feeds opposite signs.
    """
    spectra = _array(runs["planck"], feed, "spectra")[INNER, :, 0, 0, 0]
    t_sys = _array(runs["planck"], feed, "t_sys")[INNER].mean()
    frequency = _array(runs["planck"], feed, "frequency_signal")[INNER]
    noise = t_sys * np.sqrt((1.0 + 1.0 / 3.0) / np.ptp(frequency) / 0.99)  # ON of 1 integration, OFF of 3, 0.99 s each
    assert (spectra.mean(axis=0) > 5.0 * noise).all()


def test_m82_is_the_same_in_both_feeds(runs: dict[str, Path]) -> None:
    """Structure in the continuum (a standing wave from the source) has the same sign in both feeds."""
    spectra = [_array(runs["planck"], f, "spectra")[INNER, :, 0, 0, 0].mean(axis=1) for f in FEEDS]
    smooth = [s[: s.size // 128 * 128].reshape(-1, 128).mean(axis=1) for s in spectra]
    assert np.corrcoef(smooth)[0, 1] > 0.4


def test_which_subscan_is_on(l0: Path) -> None:
    """The README of the data: each feed is ON in one scan of the nod and OFF in the other; feed 0 comes first."""
    assert _array(l0, 0, "source/sobsmode").tolist() == ["OTF-ON", "OTF-OFF"]
    assert _array(l0, 1, "source/sobsmode").tolist() == ["OTF-OFF", "OTF-ON"]


def test_spectra_have_the_frequencies_of_the_file(runs: dict[str, Path]) -> None:
    """CRPIX1 is 8193, counted from 1; CRVAL1 of scan 131 is 87.2284891 GHz, CDELT1 91552.734375 Hz."""
    frequency = _array(runs["planck"], 0, "frequency_signal")
    assert frequency[8192] == pytest.approx(87228489050.0, abs=100.0)
    assert frequency[1] - frequency[0] == pytest.approx(91552.734375, abs=1e-3)


def test_vane_alone_is_refused(data: Path, tmp_path: Path) -> None:
    """Argus has an ambient vane and no cold load."""
    folder = data / "gbt_argus_vane_ngc5908"
    if not folder.is_dir():
        pytest.skip(f"no {folder}")
    with pytest.raises(StoreUnusable, match="no hot and cold load"):
        ingest_sdfits([folder], tmp_path / "l0.zarr")
    assert list(tmp_path.iterdir()) == []
