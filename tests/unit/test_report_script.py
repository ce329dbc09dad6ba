"""The script of the page in V8, without a browser: it parses, and its pure functions are right."""

from __future__ import annotations

import json
import math
import re
from typing import Any

import numpy as np
import pytest

from calib_gpu.qa.report.pack import pack
from calib_gpu.qa.report.page import COLUMNS, QUALITY_CLASS, SCRIPTS, _file

racer = pytest.importorskip("py_mini_racer", reason="mini-racer is not installed: the page's script was not checked")

ATOB = """
const atob = (text) => { // browsers have it, V8 has not
  const letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  let out = "", bits = 0, n = 0;
  for (const c of text.replace(/=/g, "")) { bits = bits * 64 + letters.indexOf(c); n += 6;
    if (n >= 8) { n -= 8; const byte = Math.floor(bits / 2 ** n); out += String.fromCharCode(byte); bits -= byte * 2 ** n; } }
  return out; };
"""


@pytest.fixture(scope="module")
def v8() -> Any:
    engine = racer.MiniRacer()
    engine.eval(ATOB + _file("charts.js"))
    return lambda code: json.loads(engine.eval(f"JSON.stringify({code}) ?? 'null'"))


@pytest.mark.parametrize("name", SCRIPTS)
def test_the_scripts_parse(name: str) -> None:
    racer.MiniRacer().eval(f"(() => {{ 'use strict'; return () => {{ {_file(name)} }} }})(); 1")


def test_all_scripts_together_parse() -> None:
    joined = "\n".join(map(_file, SCRIPTS))
    racer.MiniRacer().eval(f"(() => {{ 'use strict'; {joined} }}); 1")
    names = re.findall(r"^(?:function|const|let) (\w+)", joined, re.MULTILINE)
    assert len(names) == len(set(names))


@pytest.mark.parametrize("bits", [8, 16])
def test_packed_numbers_come_back(v8: Any, bits: int) -> None:
    values = np.array([0.0, -1.5, np.nan, 2.25, 1e-3, 7.0])
    back = v8(f"Array.from(unpack({json.dumps(pack(values, bits))}))")
    assert back[2] is None  # NaN
    good = [b for b in back if b is not None]
    assert good == pytest.approx(values[np.isfinite(values)], abs=0.5 * 8.5 / (2**bits - 2) * 1.001)


@pytest.mark.parametrize(
    ("lo", "hi", "n"), [(0.0, 1.0, 5), (490.2, 494.2, 4), (-3e-5, 8e-5, 3), (150, 1e6, 6), (5.0, -5.0, 4)]
)
def test_ticks_are_round_and_inside(v8: Any, lo: float, hi: float, n: int) -> None:
    ticks = v8(f"ticks({lo}, {hi}, {n})")
    assert 2 <= len(ticks) <= 2 * n + 1
    step = ticks[1] - ticks[0]
    assert np.diff(ticks) == pytest.approx(step)
    assert all(min(lo, hi) - 1e-9 * step <= t <= max(lo, hi) + 1e-6 * step for t in ticks)
    lead = step / 10 ** math.floor(math.log10(step) + 1e-9)
    assert min(abs(lead - m) for m in (1, 2, 5, 10)) < 1e-6
    labels = [v8(f"tickText({t}, {json.dumps(ticks)})") for t in ticks]
    assert len(set(labels)) == len(ticks)


@pytest.mark.parametrize(("lo", "hi"), [(1100.0, 1990.0), (0.1, 3.9), (-0.4, 0.4), (137.0, 171.0), (5.0, -4.0)])
def test_a_scale_has_two_labels(v8: Any, lo: float, hi: float) -> None:
    """Small panels once had the label 1500 alone."""
    ticks = v8(f"scaleTicks({lo}, {hi}, 3.5)")
    assert 2 <= len(ticks) <= 9
    assert min(lo, hi) - 1e-6 <= min(ticks) < max(ticks) <= max(lo, hi) + 1e-6


def test_ticks_of_nothing(v8: Any) -> None:
    assert v8("ticks(1, 1, 5)") == v8("scaleTicks(1, 1, 5)") == []
    assert v8("ticks(NaN, 1, 5)") == []
    assert v8("extent([NaN, NaN])") == [0, 1]


def test_times(v8: Any) -> None:
    assert [v8(f"clock({h})") for h in (0, 6.5, 23.9999, 25.25)] == ["00:00", "06:30", "00:00", "01:15"]
    for lo, hi in ((5.9, 6.2), (0, 10), (2, 60)):
        ticks = v8(f"timeTicks({lo}, {hi}, 6)")
        assert 3 <= len(ticks) <= 8
        assert len({v8(f"clock({t})") for t in ticks}) == (len(ticks) if hi - lo < 24 else 2)  # 12 h apart
        assert all(abs(60 * t - round(60 * t)) < 1e-6 for t in ticks)


def test_paths_break_where_a_value_is_missing(v8: Any) -> None:
    assert v8("pathOf([0,1,2,3], [5,6,NaN,7])") == "M0.0 5.0L1.0 6.0M3.0 7.0h.6"
    assert v8("areaOf([0,1,2,3], [1,1,NaN,1], [2,2,2,3])") == "M0.0 2.0L1.0 2.0L1.0 1.0L0.0 1.0ZM3.0 3.0L3.0 1.0Z"


def test_velocities_above_the_frequencies(v8: Any) -> None:
    """Radio convention: 1 GHz below 492.160651 GHz is c / 492.160651 away."""
    axis = "velocityAxis(492.160651)"
    assert v8(f"{axis}.of(491.160651)") == pytest.approx(299792.458 / 492.160651, rel=1e-9)
    assert v8(f"{axis}.back({axis}.of(491.3))") == pytest.approx(491.3, rel=1e-12)
    assert v8("velocityAxis(undefined)") is None


def test_colours_run_from_end_to_end(v8: Any) -> None:
    assert (v8("colour(0)"), v8("colour(1)"), v8("colour(-3)"), v8("colour(9)")) == (
        [68, 1, 84], [253, 231, 37], [68, 1, 84], [253, 231, 37],
    )  # fmt: skip


def test_script_and_page_agree() -> None:
    """What the script asks the page for is there; the bands of the score have the same classes in both."""
    template, script = _file("template.html"), "\n".join(map(_file, SCRIPTS))
    for name in re.findall(r'byId\("(\w+)"\)', script):
        assert f'id="{name}"' in template or name == "night"
    kinds = re.search(r"const kinds = (\[\"good.*?\])", script)
    assert kinds is not None
    assert [QUALITY_CLASS[name] for name in json.loads(kinds[1])] == ["q0", "q1", "q2", "q3"]
    assert [key for key, _, _ in COLUMNS][:4] == ["id", "source", "utc", "score"]  # the style sheet counts columns
    for used in set(re.findall(r'class: "([a-z]+)"', script)):
        assert f".{used}" in _file("style.css"), used
