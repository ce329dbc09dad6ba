"""What this machine has, and what it costs where something is missing: the logic behind ``calib-gpu doctor``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from calib_gpu._version import __version__

STATES = ("ok", "missing", "slow", "broken")
"""``missing`` and ``slow`` cost something, which the finding tells; with ``broken`` the engine cannot work."""


@dataclass(frozen=True)
class Finding:
    """One line of the report: ``area`` and ``name`` of the part, what was found, its state, and what that costs."""

    area: str
    name: str
    found: str
    state: str = "ok"
    cost: str = ""


def examine(path: Path | None = None) -> list[Finding]:
    """Look at software, processor, memory and GPU; with ``path`` also at the file system that it is on.

    Nothing is changed; on the file system of ``path`` some 20 MB are written to a temporary folder and removed.
    """
    from calib_gpu.doctor.file_system import file_system
    from calib_gpu.doctor.gpu import gpu
    from calib_gpu.doctor.machine import machine
    from calib_gpu.doctor.software import codecs, packages

    found = [Finding("software", "calib-gpu", __version__), *packages(), *codecs(), *machine(), *gpu()]
    return found if path is None else found + file_system(path)


def as_json(findings: list[Finding]) -> dict[str, Any]:
    """The findings as JSON holds them: a list, and whether the engine can work."""
    return {"usable": usable(findings), "findings": [vars(finding) for finding in findings]}


def usable(findings: list[Finding]) -> bool:
    """True if nothing that the engine needs is broken."""
    return not any(finding.state == "broken" for finding in findings)
