"""Plots of a scan: every kind is drawn, named and with units; what is asked for wrongly is refused."""

from __future__ import annotations

import builtins
from pathlib import Path
from typing import Any

import pytest

from calib_gpu.errors import ConfigError, OutputError, StoreUnusable
from calib_gpu.qa import plots
from calib_gpu.qa.plots import PLOTS, Request, plot_scan
from calib_gpu.simulate import realistic, simulate
from report_page import HOSTILE, calibrated, change_attributes
from small_scan import small_scan

pytest.importorskip("matplotlib")


@pytest.fixture(scope="module")
def l1(tmp_path_factory: pytest.TempPathFactory) -> Path:
    l0 = tmp_path_factory.mktemp("plots") / "night.zarr"
    simulate(l0, realistic("tiny", n_scans=1, night=False), workers=1)
    return calibrated(l0)


def texts(svg: Path, l1: Path, request: Request, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """All text of a plot, written as text."""
    import matplotlib

    monkeypatch.setitem(matplotlib.rcParams, "svg.fonttype", "none")
    plot_scan(l1, request, svg)
    import re
    from html import unescape

    return [unescape(t) for t in re.findall(r"<text[^>]*>([^<]*)</text>", svg.read_text())]


@pytest.mark.parametrize(
    ("what", "labels"),
    [
        ("spectrum", ["signal frequency, GHz", "T_A*, K", "R0 A1 SIM0_PX01"]),
        ("waterfall", ["signal frequency, GHz", "ON dump, in time", "T_A*, K, mean of 2 pixels"]),
        ("trec", ["T_rec (DSB, planck), K", "T_sys (on the T_A* scale), K", "signal frequency, GHz"]),
        ("sky", ["T'_sky = S_H + T'_hot, K", "observed - fitted, K", "signal frequency, GHz"]),
        ("map", ["longitude offset, arcsec", "latitude offset, arcsec", "integrated T_A*, K km/s"]),
    ],
)
def test_every_plot_names_scan_and_units(
    l1: Path, tmp_path: Path, what: str, labels: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = texts(tmp_path / "x.svg", l1, Request(25650, what, []), monkeypatch)
    assert set(labels) <= set(found)
    assert any("scan_025650" in t and "SIM-CLOUD" in t for t in found)


def test_what_is_not_corrected_for_the_atmosphere_is_not_called_ta_star(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = calibrated(small_scan(shape=(64, 4, 1, 2)).store(tmp_path / "l0.zarr"), atmosphere="none")
    note = " (not corrected for the atmosphere)"
    for what, label in (("spectrum", f"T_A', K{note}"), ("waterfall", f"T_A', K{note}, mean of 2 pixels"),
                        ("trec", "T_sys (on the T_A' scale), K")):  # fmt: skip
        found = texts(tmp_path / f"{what}.svg", plain, Request(25650, what, []), monkeypatch)
        assert label in found
        assert not [text for text in found if "T_A*" in text]


def test_all_kinds_are_tested() -> None:
    assert set(PLOTS) == {"spectrum", "waterfall", "trec", "sky", "map"}


def test_velocity_where_a_rest_frequency_is_known(l1: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "x.svg"
    assert not any("km/s" in t for t in texts(out, l1, Request(25650, "spectrum", ["0,0"]), monkeypatch))
    found = texts(out, l1, Request(25650, "spectrum", ["0,0"], rest_ghz=492.160651), monkeypatch)
    assert "velocity (radio), km/s, of 492.160651 GHz, frame topocentric" in found
    # 490.16 to 494.16 GHz are +22 to -2424 km/s of 490.2 GHz
    found = texts(out, l1, Request(25650, "spectrum", ["0,0"], rest_ghz=490.2), monkeypatch)
    velocities = [
        t for t in found if t in ("\u2212500", "\u22121000", "\u22121500", "\u22122000", "500", "1000", "\u22122500")
    ]
    assert velocities == ["\u22122000", "\u22121500", "\u22121000", "\u2212500"]


@pytest.mark.parametrize("kind", [".png", ".pdf", ".svg"])
def test_only_our_own_picture_is_replaced(l1: Path, tmp_path: Path, kind: str) -> None:
    out = tmp_path / f"x{kind}"
    first = plot_scan(l1, Request(25650, "trec", []), out).read_bytes()
    assert plot_scan(l1, Request(25650, "map", []), out).read_bytes() != first
    out.write_bytes(b"a picture of the family")
    with pytest.raises(OutputError, match=r"not a picture of calib-gpu.*--overwrite"):
        plot_scan(l1, Request(25650, "trec", []), out)
    assert out.read_bytes() == b"a picture of the family"
    assert plot_scan(l1, Request(25650, "trec", [], overwrite=True), out).read_bytes() == first
    assert [p.name for p in tmp_path.iterdir()] == [out.name]
    out.unlink()
    out.mkdir()
    with pytest.raises(OutputError, match="directory"):
        plot_scan(l1, Request(25650, "trec", [], overwrite=True), out)


@pytest.mark.parametrize("kind", [".png", ".pdf", ".svg"])
def test_the_same_l1_gives_the_same_bytes(l1: Path, tmp_path: Path, kind: str) -> None:
    first, second = (plot_scan(l1, Request(25650, "map", []), tmp_path / f"{n}{kind}").read_bytes() for n in "ab")
    assert first == second
    assert first.startswith({".png": b"\x89PNG", ".pdf": b"%PDF", ".svg": b"<?xml"}[kind])


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"what": "x"}, "spectrum | waterfall"),
        ({"pixels": ["0,2"]}, "R < 1 and A < 2"),
        ({"pixels": ["a"]}, "no such pixel"),
        ({"band": "band_X"}, "--band"),
        ({"rest_ghz": -1.0}, "rest frequency"),
    ],
)
def test_wrong_requests_are_refused(l1: Path, tmp_path: Path, changes: dict[str, Any], match: str) -> None:
    asked: dict[str, Any] = {"scan": 25650, "what": "map", "pixels": []}
    with pytest.raises(ConfigError, match=match):
        plot_scan(l1, Request(**(asked | changes)), tmp_path / "x.png")
    assert not (tmp_path / "x.png").exists()


def test_wrong_places_are_refused(l1: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"\.png \| \.pdf \| \.svg"):
        plot_scan(l1, Request(25650, "map", []), l1 / "zarr.json")
    with pytest.raises(OutputError):
        plot_scan(l1, Request(25650, "map", []), l1 / "zarr.json" / "x.png")
    with pytest.raises(StoreUnusable, match="no such scan"):
        plot_scan(l1, Request(1, "map", []), tmp_path / "x.png")
    with pytest.raises(StoreUnusable, match="a scan, not a store"):
        plot_scan(l1 / "scan_025650", Request(1, "map", []), tmp_path / "x.png")


def test_text_of_the_data_is_not_markup(l1: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import shutil

    copy = Path(shutil.copytree(l1, tmp_path / "l1.zarr"))
    change_attributes(copy / "scan_025650", source_name=HOSTILE)
    found = texts(tmp_path / "x.svg", copy, Request(25650, "spectrum", []), monkeypatch)
    assert any("$\\frac$" in t for t in found)


def test_without_matplotlib_the_extra_is_named(l1: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def refuse(name: str, *more: Any) -> Any:
        if name.startswith("matplotlib"):
            raise ImportError(name)
        return real(name, *more)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(ConfigError, match=r"calib-gpu\[plot\]"):
        plot_scan(l1, Request(25650, "map", []), tmp_path / "x.png")


def test_titles_for_all_plots() -> None:
    assert set(plots.TITLES) == set(PLOTS)
