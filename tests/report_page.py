"""What the tests of the QA report share: a calibrated scan, hostile text, and Chromium where there is one."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from calib_gpu.pipeline import calibrate
from calib_gpu.settings import Settings

HOSTILE = "</script><script>window.hacked = 1</script><img src=x onerror='window.hacked = 2'>\"'&{{rows}}\u202e$\\frac$"
CHROMIUM = next(
    (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), None
)
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here: the page was not opened in a browser")


def calibrated(l0: Path, **settings: Any) -> Path:
    """Calibrate a store beside it; the L1 store."""
    l1 = l0.with_name(l0.stem + "_l1.zarr")
    calibrate(l0, l1, Settings(**{"workers": 1, "quiet": True, **settings}))
    return l1


def change_attributes(folder: Path, **changes: Any) -> None:
    """Change attributes of a group; a value None removes one."""
    path = folder / "zarr.json"
    document = json.loads(path.read_text())
    for name, value in changes.items():
        document["attributes"][name] = value
        if value is None:
            del document["attributes"][name]
    path.write_text(json.dumps(document))


def records(page: str) -> dict[str, Any]:
    """The data blocks of a page by their id."""
    blocks = re.findall(r'<script type="application/json" id="([^"]*)">(.*?)</script>', page, re.DOTALL)
    return {name: json.loads(text) for name, text in blocks}


def in_browser(page: Path, probe: str, *, fragment: str = "", options: tuple[str, ...] = ()) -> tuple[str, list[str]]:
    """Open a page in headless Chromium, run a script in it; what it writes to ``probe``, and the console's messages.

    The page's policy lets no other script run, so that it is taken out of the copy that is opened.
    """
    assert CHROMIUM is not None
    text = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", page.read_text())
    script = f"<script>const out = {{}};\n{probe}\nconst said = document.createElement('pre'); said.id = 'probe';"
    script += " said.textContent = JSON.stringify(out); document.body.append(said);</script></body>"
    copy = page.with_name(f"probed-{page.name}")
    copy.write_text(text.replace("</body>", script))
    done = chromium("--dump-dom", *options, f"{copy.as_uri()}{fragment}")
    found = re.search(r'<pre id="probe">(.*?)</pre>', done.stdout, re.DOTALL)
    return (found[1] if found else ""), console(done.stderr)


def chromium(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run headless Chromium."""
    assert CHROMIUM is not None
    call = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", *arguments]
    return subprocess.run(call, capture_output=True, text=True, timeout=120, check=False)


def console(stderr: str) -> list[str]:
    """Messages of the page's console."""
    return re.findall(r"CONSOLE[^\n]*", stderr)
