"""The documentation site: it builds without a warning and without the network, has every page, and shows every figure."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

TOP = Path(__file__).parents[2]
DOCS = TOP / "docs"
FIGURES = {p.name for p in (DOCS / "figures").iterdir()}
SHOWN = re.compile(r"!\[([^\]]*)\]\(figures/([\w.-]+)\)")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("mkdocs", reason="extra docs: the site was not built")
    out = tmp_path_factory.mktemp("site")
    call = [
        sys.executable,
        "-m",
        "mkdocs",
        "build",
        "--strict",
        "--quiet",
        "-f",
        str(TOP / "mkdocs.yml"),
        "-d",
        str(out),
    ]
    env = os.environ | {
        "NO_MKDOCS_2_WARNING": "1",
        "http_proxy": "http://127.0.0.1:9",
        "https_proxy": "http://127.0.0.1:9",
    }
    done = subprocess.run(call, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""
    return out


def test_every_page_is_there(site: Path) -> None:
    pages = {p.stem for p in site.glob("*.html")} - {"404"}
    assert pages == {p.stem for p in DOCS.glob("*.md")} | {"readme", "changelog", "contributing", "license"}


def test_nothing_is_loaded_from_elsewhere(site: Path) -> None:
    loaded = re.compile(r"<(?:script|img|iframe)[^>]*\ssrc=\"?([^\s\">]+)|<link[^>]*stylesheet[^>]*href=\"?([^\s\">]+)")
    for page in site.glob("*.html"):
        found = [a or b for a, b in loaded.findall(page.read_text())]
        assert found
        assert not [target for target in found if target.startswith("//") or "://" in target], page.name
    for style in site.rglob("*.css"):
        assert not re.search(r"url\(\s*[\"']?(?:https?:)?//|@import", style.read_text()), style.name


def test_links_between_the_top_and_the_pages(site: Path) -> None:
    """README and its kin stand at the top of the repository and are pages of the site."""
    assert 'href="readme.html"' in (site / "index.html").read_text()
    assert 'href="using-results.html#a-map"' in (site / "readme.html").read_text()
    assert 'href="physics.html#64-qa-metrics"' in (site / "operations.html").read_text()


def test_the_python_page_has_the_public_names(site: Path) -> None:
    text = (site / "api.html").read_text()
    for name in ("calibrate", "RunReport", "Settings", "open_l1", "CalibError"):
        assert f'id="calib_gpu.{name}"' in text
    assert "average" in text


def test_every_figure_is_shown_and_has_a_text() -> None:
    found = [pair for page in DOCS.glob("*.md") for pair in SHOWN.findall(page.read_text())]
    assert {name for _, name in found} == FIGURES
    assert all(len(text) > 20 for text, _ in found)


@pytest.mark.slow
def test_figures_are_drawn_by_the_engine(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    env = os.environ | {
        "PYTHONPATH": os.pathsep.join([str(TOP / "src"), os.environ.get("PYTHONPATH", "")]).strip(os.pathsep)
    }
    call = [
        sys.executable,
        "-W",
        "error::RuntimeWarning",
        str(TOP / "scripts" / "make_figures"),
        "--out",
        str(tmp_path),
    ]
    done = subprocess.run(call, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert {p.name for p in tmp_path.iterdir()} == FIGURES
    assert all(p.read_bytes().startswith(b"\x89PNG") for p in tmp_path.iterdir())
