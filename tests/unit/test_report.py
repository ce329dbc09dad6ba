"""The QA report: what the record says of a scan, the score, and that nothing from data can act in the page."""

from __future__ import annotations

import json
import shutil
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from calib_gpu.errors import OutputError, StoreUnusable
from calib_gpu.pipeline import calibrate
from calib_gpu.qa.metrics import WARN_ABOVE
from calib_gpu.qa.products import open_products
from calib_gpu.qa.report import write_report
from calib_gpu.qa.report.pack import pack, script_json, text
from calib_gpu.qa.report.page import _failed_row, _failures, _table_row
from calib_gpu.qa.report.score import CHECKS, LEVELS, PWV_STATUS_SCORES, RATIOS, Check, band_of, score_scan
from calib_gpu.qa.report.summary import summarise, utc
from calib_gpu.records import ScanId
from calib_gpu.settings import Settings
from calib_gpu.simulate import realistic, simulate
from report_page import HOSTILE, calibrated, change_attributes, records

PIXELS = ["R0 A0", "R0 A1"]
GOOD_QA: dict[str, Any] = {
    "rms_ratio": [[1.0, 1.1]], "pixel_dead": [[False, False]], "bad_channel_fraction": [[0.0, 0.01]],
    "nan_fraction": [[0.0, 0.01]], "hot_stability": [[1.0, 1.0]], "gain_drift": [[0.001, 0.002]], "off_drift": [[0.001, 0.001]],
    "load_age_s": 100.0, "ref_gap_max_s": 30.0, "pwv_status": "ok", "pwv_rms_k": 0.3, "pwv_off_scatter_fraction": 0.01,
    "t_median_s": 0.6, "baseline_ripple_k": [[0.1, 0.1]], "tsys_median": [[1000.0, 900.0]], "negative_line": [[False, False]],
    "trec_median": [[100.0, 110.0]],
}  # fmt: skip
LIMITS = {"settings": json.dumps({"trec_max": 200.0, "tsys_max": 1200.0})}


@pytest.fixture(scope="module")
def night(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """L1 of the tiny simulated night: three scans, one failure."""
    l0 = tmp_path_factory.mktemp("report") / "night.zarr"
    simulate(l0, realistic("tiny"), workers=1)
    return calibrated(l0)


@pytest.fixture
def copy(night: Path, tmp_path: Path) -> Path:
    """The night to be damaged."""
    return Path(shutil.copytree(night, tmp_path / "night.zarr"))


def unpacked(packed: dict[str, Any]) -> np.ndarray:
    """The inverse of pack, written out anew."""
    import base64

    codes = np.frombuffer(base64.b64decode(packed["d"]), "<u2" if packed["b"] == 16 else "u1").astype(float)
    values = packed["lo"] + (codes - 1) * (packed["hi"] - packed["lo"]) / (2 ** packed["b"] - 2)
    return np.where(codes == 0, np.nan, values).reshape(packed["n"])


# --- numbers --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bits", [8, 16])
def test_packed_numbers_come_back(bits: int) -> None:
    values = np.array([[1.0, np.nan, -3.5], [7.25, np.inf, 0.0]])
    back = unpacked(pack(values, bits))
    assert np.array_equal(np.isnan(back), ~np.isfinite(values))
    good = np.isfinite(values)
    assert np.abs(back - values)[good].max() <= 0.5 * 10.75 / (2**bits - 2) * 1.001
    assert np.isnan(unpacked(pack([np.nan, np.nan], bits))).all()
    assert unpacked(pack([4.0, 4.0], bits)).tolist() == [4.0, 4.0]


def test_times_are_those_of_the_calendar() -> None:
    assert utc(51544.5) == "2000-01-01 12:00"  # J2000
    assert utc(float("nan")) == utc(1e300) == ""


@pytest.mark.filterwarnings("ignore:.*(empty slice|All-NaN):RuntimeWarning")
def test_the_record_holds_what_l1_says(night: Path) -> None:
    """Curves, numbers and flags against the arrays read with zarr-python, averaged here."""
    import zarr

    scan = ScanId(25650)
    record = summarise(open_products(night, scan), 200_000).record
    group = zarr.open_group(night / scan.path, mode="r")
    spectra, t_sys, trec = (np.asarray(group[n]) for n in ("spectra", "t_sys", "trec"))
    bad = np.asarray(group["bad_channels"])
    n_bin = record["bad"]["n"][1]
    assert n_bin == 256
    for a in range(2):
        for name, values in (
            ("spectrum", np.nanmean(spectra[:, :, 0, a].reshape(1024, -1), axis=1)),
            ("tsys", np.nanmean(t_sys[:, 0, a], axis=1)),
            ("trec", np.where(bad[:, 0, a], np.nan, trec[:, 0, a])),
        ):
            bins = values.reshape(n_bin, -1)
            for kind, function in (("low", np.nanmin), ("mean", np.nanmean), ("high", np.nanmax)):
                packed = record["curves"][name][kind]
                expected = function(bins, axis=1)
                assert unpacked(packed)[a] == pytest.approx(expected, abs=(packed["hi"] - packed["lo"]) / 65534)
    assert unpacked(record["bad"])[:, :].sum() * 4 == pytest.approx(bad.sum(), rel=0.01)
    flags = {name: n for name, n, _, _ in record["flags"]}
    assert flags["BAD_CHANNEL"] == int((np.asarray(group["flags"]) & 1 > 0).sum())
    fall = unpacked(record["waterfall"])
    n_row = 8 * spectra.shape[4]  # every dump has a row
    by_dump = np.transpose(spectra[:, :, 0], (2, 3, 1, 0)).reshape(2, n_row, 128, 8)
    expected = np.nanmedian(np.nanmean(by_dump, axis=3), axis=0)
    lo, hi = record["waterfall"]["lo"], record["waterfall"]["hi"]
    assert np.array_equal(np.isnan(fall), np.isnan(expected))
    assert np.nanmax(np.abs(fall - np.clip(expected, lo, hi))) <= (hi - lo) / 254
    assert record["signal"][1] - record["signal"][0] == pytest.approx(4.0)
    assert record["map"]["found"]
    assert record["map"]["window"][0] < (492.160651 + 0.3) < record["map"]["window"][1]  # where the line was put


def test_noise_is_held_against_the_radiometer_equation(night: Path) -> None:
    products = open_products(night, ScanId(25650))
    record = summarise(products, 100_000).record
    columns = {c["label"]: c["values"] for c in record["columns"]}
    on, ref = products.whole("exptime_on")[0], np.median(products.whole("exptime_ref"))
    t_sys = products.attrs["qa"]["tsys_median"][0][0]
    assert columns["rms expected"][0] == pytest.approx(t_sys * np.sqrt((1 / on + 1 / ref) / (4e9 / 1024)), rel=1e-3)
    ratio = columns["rms measured"][0] / columns["rms expected"][0]
    assert ratio == pytest.approx(products.attrs["qa"]["rms_ratio"][0][0], rel=1e-3)
    assert columns["rms measured"][0] == pytest.approx(columns["rms expected"][0], rel=0.1)


def test_a_small_budget_gives_a_small_record(night: Path) -> None:
    products = open_products(night, ScanId(25650))
    sizes = [len(script_json(summarise(products, budget).record)) for budget in (12_000, 24_000, 48_000)]
    assert sizes[0] < 14_000 < sizes[1] < 26_000
    assert sizes[1] < sizes[2] <= 48_000


# --- score ----------------------------------------------------------------------------------------------------------


def test_a_good_scan_has_all_its_points() -> None:
    score = score_scan({"qa": GOOD_QA} | LIMITS, PIXELS)
    assert (score.value, score.reason) == (1.0, "")
    assert [r.score for r in score.results] == [1.0] * len(CHECKS)


@pytest.mark.parametrize(
    ("metric", "value", "expected"),
    [
        ("rms_ratio", [[1.0, 1.5]], (1.0 + 0.9) / 2),
        ("rms_ratio", [[3.0, 3.0]], 0.33),
        ("rms_ratio", [[100.0, 1.0]], 0.5),
        ("load_age_s", 1800.0, 0.9),
        ("load_age_s", 2700.0, 0.9 + 0.5 * (0.66 - 0.9)),
        ("pixel_dead", [[True, False]], 0.33),
        ("pixel_dead", [[True, True]], None),  # then no pixel has a noise
        ("t_median_s", 0.1, 0.66),
        ("t_median_s", 0.0, 0.0),
        ("pwv_status", "at_lower_bound", 0.5),
        ("baseline_ripple_k", [[3.0, 2.7]], 0.66),
        ("negative_line", [[True, False]], 0.33 + (0.5 - 0.3) / 0.7 * (0.0 - 0.33)),
        ("trec_median", [[150.0, 300.0]], (1.0 + 0.66) / 2),
        ("trec_median", [[200.0, 200.0]], 0.9),
    ],
)
def test_scores_by_hand(metric: str, value: Any, expected: float | None) -> None:
    score = score_scan({"qa": GOOD_QA | {metric: value}} | LIMITS, PIXELS)
    assert score.value == (None if expected is None else pytest.approx(expected))
    if expected is not None:
        assert any(c.label in score.reason for c in CHECKS if metric in RATIOS.get(c.metric, (c.metric,)))


def test_limits_of_the_telescope_are_scored(night: Path) -> None:
    """T_rec is 150 K in this night: 1.5 times a limit of 100 K; without a limit there is no score of it."""
    of = {check.metric: check for check in CHECKS}
    attrs = open_products(night, ScanId(25650)).attrs
    for metric in ("trec_over_limit", "tsys_over_limit"):
        found = next(r for r in score_scan(attrs, PIXELS).results if r.check is of[metric])
        assert (found.score, found.text) == (None, of[metric].absent)
    limited = attrs | {"settings": json.dumps(json.loads(attrs["settings"]) | {"trec_max": 100.0})}
    score = score_scan(limited, PIXELS)
    ratios = np.asarray(attrs["qa"]["trec_median"]) / 100.0
    assert ((ratios > 1.5) & (ratios < 2.0)).all()
    assert score.value == pytest.approx(float(np.mean(0.66 - (0.66 - 0.33) * (ratios - 1.5) / 0.5)))
    assert score.reason.startswith("T_rec / trec_max: median 1.5")
    assert "all pixels" in score.reason
    for broken in ("x", "[1]", None, json.dumps({"trec_max": "x"})):
        assert score_scan(attrs | {"settings": broken}, PIXELS).value == score_scan(attrs, PIXELS).value


def test_a_run_with_a_limit_warns_and_scores_alike(tmp_path: Path) -> None:
    simulate(tmp_path / "night.zarr", realistic("tiny", n_scans=1, night=False), workers=1)
    attrs = open_products(calibrated(tmp_path / "night.zarr", trec_max=100.0), ScanId(25650)).attrs
    assert "trec_median" in attrs["qa"]["warnings"]
    assert score_scan(attrs, PIXELS).reason.startswith("T_rec / trec_max")


def test_a_score_that_cannot_be_computed_says_so() -> None:
    for lacking in (
        {},
        GOOD_QA | {"rms_ratio": None},
        GOOD_QA | {"rms_ratio": [[None, None]]},
        GOOD_QA | {"rms_ratio": "x"},
    ):
        score = score_scan({"qa": lacking}, PIXELS)
        assert score.value is None
        assert score.reason.startswith("not computed: noise / radiometer equation: ")
    assert score_scan({}, PIXELS).reason == "not computed: the scan has no QA metrics"
    score = score_scan({"qa": GOOD_QA | {"gain_drift": None}}, PIXELS)
    assert score.value == 1.0  # the first loads of a night have none before them
    (drift,) = (r for r in score.results if r.check.metric == "gain_drift")
    assert (drift.score, drift.text) == (None, "no load set before this one")


def test_noise_below_the_radiometer_equation_is_no_merit() -> None:
    score = score_scan({"qa": GOOD_QA | {"rms_ratio": [[0.6, 0.6]]}}, PIXELS)
    assert (score.value, score.reason) == (
        pytest.approx(0.66),
        "noise too low (check enbw): median 0.6, worst 0.6; all pixels",
    )


def test_without_atmosphere_nothing_is_said_of_it() -> None:
    score = score_scan({"qa": GOOD_QA | {"pwv_status": "none"}, "transmission_corrected": False} | LIMITS, PIXELS)
    none = {r.check.metric: r.text for r in score.results if r.score is None}
    assert none == {"pwv_status": "no atmosphere was used", "t_median_s": "no atmosphere was used"}


def test_dead_pixels_count_once() -> None:
    """A dead pixel has no noise and all its channels are bad: only the check of dead pixels tells it."""
    qa = GOOD_QA | {"pixel_dead": [[False, True]], "rms_ratio": [[1.0, None]], "bad_channel_fraction": [[0.0, 1.0]]}
    lost = [r.check.metric for r in score_scan({"qa": qa}, PIXELS).results if r.score is not None and r.score < 1.0]
    assert lost == ["pixel_dead"]


@pytest.mark.parametrize("check", CHECKS, ids=lambda c: c.metric)
def test_the_table_is_consistent(check: Check) -> None:
    """Limits are monotonic, and a metric with a warning leaves the band good exactly where it warns."""
    assert list(check.limits) in (sorted(check.limits), sorted(check.limits, reverse=True))
    assert len(check.limits) == len(LEVELS)
    if check.metric in WARN_ABOVE and check.limits[0] < check.limits[-1]:
        assert check.limits[LEVELS.index(0.9)] == WARN_ABOVE[check.metric]


def test_bands_of_the_score() -> None:
    assert [band_of(v) for v in (1.0, 0.9, 0.89, 0.66, 0.65, 0.33, 0.32, 0.0)] == [
        "good", "good", "below standard", "below standard", "warning", "warning", "serious", "serious",
    ]  # fmt: skip


def test_every_state_of_the_fit_has_a_score() -> None:
    import inspect

    from calib_gpu.physics import pwv

    source = inspect.getsource(pwv)
    assert all(f'"{status}"' in source for status in set(PWV_STATUS_SCORES) - {"fixed"})


# --- the page -------------------------------------------------------------------------------------------------------


class Elements(HTMLParser):
    """All start tags of a page, with their attributes."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))


def test_the_page_tells_the_night(night: Path, tmp_path: Path) -> None:
    made = write_report(night, tmp_path / "report.html")
    page = made.path.read_text()
    assert (made.scans, made.failures, made.bytes) == (3, 1, len(page.encode()))
    assert set(records(page)) == {"night", "data-scan_025650", "data-scan_025652", "data-scan_025653"}
    assert "scan_025654: source/sobsmode: no OFF subscan" in page
    assert "NoReference" in page
    assert '<a href="#failures">no OFF subscan</a>' in page  # not the name of the class
    assert "<title>QA report · simulated · SIM-CLOUD · " in page
    assert "Not corrected for the atmosphere" not in page.split("<script>")[0]
    assert all(s["trec"] > 100.0 and s["pwv"] > 0.4 for s in records(page)["night"]["scans"])
    tags = Elements(page).tags
    assert not [t for t, a in tags if t in ("img", "iframe", "link") and a.get("href") != "data:,"]
    assert not [a for _, attrs in tags for a in attrs if a in ("src", "style") or a.startswith("on")]
    assert "{{" not in page.split("<script>")[0]


def test_the_same_l1_gives_the_same_bytes(night: Path, tmp_path: Path) -> None:
    first, second = (write_report(night, tmp_path / name).path.read_bytes() for name in ("a.html", "b.html"))
    assert first == second


def test_only_some_scans(night: Path, tmp_path: Path) -> None:
    out = tmp_path / "report.html"
    assert (write_report(night, out, [25652, 25654]).scans, write_report(night, out, [25654]).failures) == (1, 1)
    with pytest.raises(StoreUnusable, match="25659"):
        write_report(night, out, [25650, 25659])
    with pytest.raises(StoreUnusable):
        write_report(tmp_path, out)


def test_nothing_but_a_report_is_replaced(night: Path, tmp_path: Path) -> None:
    mine = tmp_path / "thesis.html"
    mine.write_text("<html>mine</html>")
    with pytest.raises(OutputError, match="is not a report"):
        write_report(night, mine)
    assert mine.read_text() == "<html>mine</html>"
    with pytest.raises(OutputError):
        write_report(night, tmp_path, overwrite=True)
    made = write_report(night, mine, overwrite=True)
    assert write_report(night, mine).bytes == made.bytes  # a report replaces a report


def test_text_of_the_data_cannot_act(copy: Path, tmp_path: Path) -> None:
    """Source names, reasons, warnings and messages that try to be markup, script, or a place of the template."""
    qa = json.loads((copy / "scan_025650" / "zarr.json").read_text())["attributes"]["qa"]
    change_attributes(
        copy / "scan_025650", source_name=HOSTILE, obs_mode=HOSTILE, warnings=[HOSTILE], pwv_status=HOSTILE, atm_table=HOSTILE,
        load_scans=[HOSTILE], flag_counts={HOSTILE: 3}, qa=qa | {"pwv_status": HOSTILE},
        receiver={HOSTILE: {"value": HOSTILE, "from": HOSTILE}},
    )  # fmt: skip
    change_attributes(copy, input_store=HOSTILE, engine=HOSTILE)
    failed = [{"scan": HOSTILE, "stage": HOSTILE, "error": HOSTILE, "message": HOSTILE}]
    (copy / "failures.json").write_text(json.dumps(failed))
    page = write_report(copy, tmp_path / "report.html").path.read_text()
    tags = Elements(page).tags
    plain = Elements(write_report(copy, tmp_path / "r.html", [25653]).path.read_text()).tags
    assert [a for t, a in tags if t == "script"] == [
        {"type": "application/json", "id": name} for name in records(page)
    ] + [{}]
    assert not {t for t, _ in tags} - {t for t, _ in plain} - {"details", "summary", "b", "br", "p", "small"}
    assert "img" not in {t for t, _ in tags}
    assert "<script>window.hacked" not in page
    assert "\u202e" not in page
    assert records(page)["data-scan_025650"]["source"].startswith("</script><script>")  # shown as it is, as text


def test_every_cell_of_the_table_is_escaped() -> None:
    row = dict.fromkeys(("id", "source", "mode", "reason", "quality", "pwvStatus", "utc"), "<i>'\"")
    numbers = dict.fromkeys(("score", "pwv", "trec", "tsys", "rms", "flagged"))
    assert {tag for tag, _ in Elements(_table_row(row | numbers)).tags} == {"tr", "td", "a", "small", "span"}
    failure = dict.fromkeys(("scan", "stage", "error", "message"), "<i>'\"")
    assert {tag for tag, _ in Elements(_failed_row(failure) + _failures([failure])).tags} == {
        "tr", "td", "a", "span", "details", "summary", "p", "b", "br",
    }  # fmt: skip


def test_text_for_people() -> None:
    assert text("a\u202eb\x00\ud800c\nd") == "a\ufffdb\ufffd\ufffdc\ufffdd"
    assert text("Öφ ☉") == "Öφ ☉"
    assert len(text("x" * 10_000)) == 300
    assert "<" not in script_json({"a": "</script>", "b": "<!--", "c": "\u2028&"})
    assert json.loads(script_json({"a": "</script>&\u2028"})) == {"a": "</script>&\u2028"}


@pytest.mark.parametrize("damage", ["chunk", "array", "attributes", "qa", "json"])
def test_a_damaged_scan_is_named_and_the_others_are_shown(copy: Path, tmp_path: Path, damage: str) -> None:
    scan = copy / "scan_025652"
    if damage == "chunk":
        for chunk in (scan / "spectra").glob("c.*"):
            chunk.write_bytes(b"nothing")
    elif damage == "array":
        shutil.rmtree(scan / "trec")
    elif damage == "attributes":
        change_attributes(scan, pwv_mm="much", pwv_source=5)
    elif damage == "qa":
        change_attributes(scan, qa=[1, 2])
    else:
        (scan / "zarr.json").write_text("{")
    made = write_report(copy, tmp_path / "report.html")
    assert (made.scans, made.failures) == (2, 2)
    assert "scan_025652" in made.path.read_text()


def test_damaged_failures_are_told(copy: Path, tmp_path: Path) -> None:
    for content in ("[", "[1]", "7"):
        (copy / "failures.json").write_text(content)
        assert "failures.json cannot be read" in write_report(copy, tmp_path / "report.html").path.read_text()


def test_without_atmosphere_and_offsets(tmp_path: Path) -> None:
    from small_scan import small_scan

    scan = small_scan()
    for name in ("otf_lon", "otf_lat"):
        del scan.source[name]
    l0 = scan.store(tmp_path / "l0.zarr")
    calibrate(l0, tmp_path / "l1.zarr", Settings(atmosphere="none", workers=1, quiet=True))
    record = summarise(open_products(tmp_path / "l1.zarr", ScanId(25650)), 50_000).record
    assert record["map"]["why"] == "the offsets on the sky are not stored"
    assert record["sky"]["why"] == "no atmosphere was used"
    assert record["sky"]["transmission"] is None
    assert record["sky"]["observed"] is not None
    assert ["PWV", "none: not corrected for the atmosphere"] in record["facts"]
    assert (record["scale"], record["corrected"]) == ("T_A'", False)
    page = write_report(tmp_path / "l1.zarr", tmp_path / "report.html").path.read_text()
    assert "<b>Not corrected for the atmosphere</b>: the scale is T_A', not T_A*." in page
