"""The page in a real browser: no console errors, sort, find, deep links, phone width, print, hostile text."""

from __future__ import annotations

import html
import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from calib_gpu.qa.report import write_report
from calib_gpu.simulate import realistic, simulate
from report_page import HOSTILE, calibrated, change_attributes, chromium, console, in_browser, needs_chromium

pytestmark = [needs_chromium, pytest.mark.slow]

SIZE = ("--window-size=1200,900",)


@pytest.fixture(scope="module")
def night(tmp_path_factory: pytest.TempPathFactory) -> Path:
    l0 = tmp_path_factory.mktemp("browser") / "night.zarr"
    simulate(l0, realistic("tiny"), workers=1)
    l1 = calibrated(l0)
    qa = json.loads((l1 / "scan_025652" / "zarr.json").read_text())["attributes"]["qa"]
    change_attributes(
        l1 / "scan_025652",
        source_name="NGC 253",
        qa=qa | {"rms_ratio": [[4.0, 4.0]], "trec_median": [[1500.0, 1500.0]]},
    )
    return l1


@pytest.fixture
def page(night: Path, tmp_path: Path) -> Path:
    return write_report(night, tmp_path / "report.html").path


def said(answer: tuple[str, list[str]]) -> Any:
    """What the probe found; the console must be silent."""
    found, messages = answer
    assert messages == []
    return json.loads(html.unescape(found))


def test_it_opens_without_a_word_in_the_console(page: Path) -> None:
    """As it is, with its policy: own script and style run, nothing is refused."""
    for fragment in ("", "#scan_025650", "#nothing", "#%ff", "#failures"):
        done = chromium("--dump-dom", *SIZE, page.as_uri() + fragment)
        assert console(done.stderr) == []
        assert 'data-ready="true"' in done.stdout
        drawn = len(re.findall("<svg", done.stdout))
        assert drawn > 10 if fragment == "#scan_025650" else drawn == 2


def test_the_table_sorts_both_ways_with_empty_cells_last(page: Path) -> None:
    probe = """
const column = (k) => [...document.querySelectorAll("#scans tbody tr")].map((row) => row.cells[k].dataset.value);
const press = (k) => document.querySelectorAll("#scans th button")[k].click();
press(3); out.score = column(3); press(3); out.down = column(3);
press(6); out.trec = column(6); press(5); out.pwv = column(5); press(5); out.pwvDown = column(5);
press(0); out.scan = column(0); press(0); out.scanDown = column(0);
out.aria = [...document.querySelectorAll("#scans th")].map((th) => th.getAttribute("aria-sort"));
"""
    out = said(in_browser(page, probe))
    assert out["score"][0] == "-1.0"  # the one that failed needs attention first
    assert [float(v) for v in out["score"]] == sorted(float(v) for v in out["score"])
    assert out["down"] == out["score"][::-1]
    assert out["trec"][2:] == ["1500.0", ""]  # as numbers: 157 comes before 1500
    for values, reverse in ((out["pwv"], False), (out["pwvDown"], True)):
        assert values[-1] == ""
        assert [float(v) for v in values[:-1]] == sorted((float(v) for v in values[:-1]), reverse=reverse)
    assert out["scan"] == sorted(out["scan"])
    assert out["scanDown"] == out["scan"][::-1]
    assert out["aria"] == ["descending"] + [None] * 9


def test_a_scan_is_found_and_opened(page: Path) -> None:
    probe = """
const find = document.getElementById("find");
const type = (text) => { find.value = text; find.dispatchEvent(new Event("input")); };
const all = [...document.querySelectorAll("#scans tbody tr")];
const shown = () => all.filter((row) => !row.hidden).map((row) => row.cells[0].dataset.value);
type("ngc 253"); out.source = shown(); out.count = document.getElementById("found").textContent;
type("no off"); out.reason = shown();
type("zzz"); out.none = shown();
type("25653"); out.number = shown();
find.dispatchEvent(new KeyboardEvent("keydown", { key: "Enter" }));
out.hash = location.hash;
dispatchEvent(new Event("hashchange"));
out.heading = document.querySelector("#detail h2").textContent;
out.focus = document.activeElement.tagName;
out.hidden = document.getElementById("overview").hidden;
out.figures = [...document.querySelectorAll("#detail h3")].map((h) => h.textContent);
out.panels = document.querySelectorAll("#detail .panel svg path").length;
const panel = document.querySelector(".panel"); panel.click();
out.wide = panel.getAttribute("aria-expanded"); panel.click(); out.narrow = panel.getAttribute("aria-expanded");
out.images = [...document.querySelectorAll("#detail image")].map((i) => i.getAttribute("href").slice(0, 22));
dispatchEvent(new KeyboardEvent("keydown", { key: "Escape" })); dispatchEvent(new Event("hashchange"));
out.back = document.getElementById("overview").hidden;
"""
    out = said(in_browser(page, probe, options=SIZE))
    assert (out["source"], out["count"]) == (["scan_025652"], "1 of 4")
    assert (out["reason"], out["none"], out["number"]) == (["scan_025654"], [], ["scan_025653"])
    assert (out["hash"], out["hidden"], out["back"], out["focus"]) == ("#scan_025653", True, False, "H2")
    assert out["heading"] == "scan_025653 · SIM-CLOUD · OTF"
    assert (out["wide"], out["narrow"]) == ("true", "false")
    assert {
        "Score: the least of these counts", "Sky, observed and fitted", "Residual of S_H", "Transmission",
        "Noise against the radiometer equation", "Waterfall", "Band mean of the dumps", "Integrated intensity", "Path on the sky",
    } <= set(out["figures"])  # fmt: skip
    assert out["panels"] == 2 * 3 * 2  # two pixels, three quantities, line and envelope
    assert set(out["images"]) == {"data:image/png;base64,"}
    assert len(out["images"]) == 4


@pytest.mark.parametrize("width", [390, 1200])
@pytest.mark.parametrize("fragment", ["", "#scan_025650"])
def test_nothing_sticks_out_sideways(page: Path, width: int, fragment: str) -> None:
    """A frame of a phone's width: a headless window does not become that narrow by itself."""
    frame = page.with_name("frame.html")
    inner = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", page.read_text())
    page.with_name("inner.html").write_text(
        inner.replace(
            "</body>",
            "<script>parent.postMessage([document.documentElement.scrollWidth, innerWidth], '*')</script></body>",
        )
    )
    frame.write_text(
        f"<iframe src='inner.html{fragment}' width={width} height=800></iframe><pre id=probe></pre>"
        "<script>onmessage = (e) => { document.getElementById('probe').textContent = JSON.stringify(e.data) }</script>"
    )
    done = chromium("--dump-dom", "--virtual-time-budget=4000", "--window-size=1400,900", frame.as_uri())
    found = re.search(r'<pre id="probe">\[(\d+),(\d+)\]', done.stdout)
    assert found is not None
    assert int(found[1]) <= int(found[2])


@pytest.mark.parametrize("fragment", ["", "#scan_025650"])
def test_it_prints(page: Path, fragment: str) -> None:
    pdf = page.with_suffix(".pdf")
    chromium(f"--print-to-pdf={pdf}", "--virtual-time-budget=3000", page.as_uri() + fragment)
    assert pdf.read_bytes().startswith(b"%PDF")
    pages = len(re.findall(rb"/Type\s*/Page\b", pdf.read_bytes()))
    assert 1 <= pages <= (3 if not fragment else 8)


def test_dark_mode_has_its_own_colours(page: Path) -> None:
    probe = (
        "out.paper = getComputedStyle(document.body).backgroundColor; out.ink = getComputedStyle(document.body).color;"
    )
    light = said(in_browser(page, probe))
    dark = said(in_browser(page, probe, options=("--blink-settings=preferredColorScheme=0",)))

    def brightness(colour: str) -> int:
        return sum(int(v) for v in re.findall(r"\d+", colour)[:3])

    assert brightness(light["paper"]) > 600 > 300 > brightness(light["ink"])
    assert brightness(dark["paper"]) < 150 < 500 < brightness(dark["ink"])


def test_hostile_text_does_nothing(night: Path, tmp_path: Path) -> None:
    l1 = Path(shutil.copytree(night, tmp_path / "night.zarr"))
    change_attributes(
        l1 / "scan_025650", source_name=HOSTILE, warnings=[HOSTILE], atm_table=HOSTILE, flag_counts={HOSTILE: 3}
    )
    (l1 / "failures.json").write_text(json.dumps([dict.fromkeys(("scan", "stage", "error", "message"), HOSTILE)]))
    page = write_report(l1, tmp_path / "report.html").path
    probe = "out.hacked = window.hacked ?? null; out.images = document.querySelectorAll('img').length;"
    probe += "out.title = document.querySelector('#detail h2').textContent"
    out = said(in_browser(page, probe, fragment="#scan_025650"))
    assert (out["hacked"], out["images"]) == (None, 0)
    assert "<img src=x onerror=" in out["title"]


def test_the_policy_stops_a_script_that_is_not_ours(page: Path) -> None:
    page.write_text(page.read_text().replace("</body>", "<script>document.title = 'hacked'</script></body>"))
    done = chromium("--dump-dom", page.as_uri())
    assert "<title>hacked" not in done.stdout
    assert any("Content Security Policy" in message for message in console(done.stderr))


@pytest.mark.parametrize("width", [900, 1500])
def test_text_in_drawings_is_not_made_small(page: Path, width: int) -> None:
    """Drawings are shown at the size for which they are made, so that their text of 11 px is 11 px."""
    probe = """
location.hash = "#scan_025650"; dispatchEvent(new Event("hashchange"));
const all = (name) => [...document.querySelectorAll(`#detail ${name}`)];
out.scales = all("svg").map((svg) => svg.getBoundingClientRect().width / svg.viewBox.baseVal.width);
const rest = all("figure").filter((f) => f.querySelector("h3").textContent === "Residual of S_H");
out.legends = rest.map((f) => f.querySelector(".legend").textContent);
"""
    out = said(in_browser(page, probe, options=(f"--window-size={width},900",)))
    assert len(out["scales"]) > 10
    assert min(out["scales"]) > 0.97
    assert out["legends"] == ["OFF 0OFF 4"]
