"""Observing modes: how ON subscans find their OFFs (physics, section 5.2).

A mode is one row of :data:`MODES`: its name, the sobsmode strings that announce it, and what an OFF contributes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from calib_gpu.errors import NoReference, UnknownMode, UnsupportedMode
from calib_gpu.records import Pairing
from calib_gpu.schema import CHOPPED_PREFIXES, SUBSCAN_CLASSES


@dataclass(frozen=True)
class Mode:
    """One observing mode; ``off_is_mean``: the reference is the mean of the OFF's dumps, else its first valid dump."""

    name: str
    prefix: str
    off_is_mean: bool


MODES: Final = {
    "otf": Mode("OTF", "OTF-", off_is_mean=True),
    "tp": Mode("TP", "", off_is_mean=False),
}


def detect_mode(classes: list[str], forced: str = "auto") -> Mode:
    """The mode of a scan from its sobsmode strings (upper case), or the one that is forced.

    Raises
    ------
    UnknownMode
        No string has a known class.
    UnsupportedMode
        Chopped observations.
    """
    chopped = [c for c in classes if c.startswith(CHOPPED_PREFIXES)]
    if chopped:
        raise UnsupportedMode(
            "chopped observing mode",
            array="source/sobsmode",
            value=chopped[0],
            rule="total power or OTF",
            fix="not supported in this version",
        )
    if not any(c in SUBSCAN_CLASSES for c in classes):
        raise UnknownMode(
            "no subscan of a known class",
            array="source/sobsmode",
            value=", ".join(sorted(set(classes))[:5]),
            rule=f"one of {', '.join(SUBSCAN_CLASSES)}",
        )
    if forced != "auto":
        return MODES[forced]
    return MODES["otf"] if any(c.startswith(MODES["otf"].prefix) for c in classes) else MODES["tp"]


def pair_nearest(on_us: list[int], off_us: list[int]) -> tuple[list[tuple[int, int]], list[tuple[float, float]]]:
    """Nearest OFF in time; a tie goes to the earlier OFF, then to the lower index. Positions in ``off_us``."""
    refs = [min(range(len(off_us)), key=lambda k: (abs(off_us[k] - t), off_us[k], k)) for t in on_us]
    return [(k, k) for k in refs], [(1.0, 0.0)] * len(refs)


def pair_interp(on_us: list[int], off_us: list[int]) -> tuple[list[tuple[int, int]], list[tuple[float, float]]]:
    """The OFFs before and after, weighted linearly in time; one of them alone at its own time and outside."""
    refs: list[tuple[int, int]] = []
    weights: list[tuple[float, float]] = []
    order = sorted(range(len(off_us)), key=lambda k: (off_us[k], k))
    for t in on_us:
        before = [k for k in order if off_us[k] <= t]
        after = [k for k in order if off_us[k] > t]
        if not before or not after or off_us[before[-1]] == t:
            k = before[-1] if before else after[0]
            k = next(j for j in order if off_us[j] == off_us[k])
            refs.append((k, k))
            weights.append((1.0, 0.0))
            continue
        first, second = before[-1], after[0]
        first = next(j for j in order if off_us[j] == off_us[first])
        share = (t - off_us[first]) / (off_us[second] - off_us[first])
        refs.append((first, second))
        weights.append((1.0 - share, share))
    return refs, weights


PAIRINGS: Final = {"nearest": pair_nearest, "interp": pair_interp}


def pair(on: list[tuple[int, int]], off: list[tuple[int, int]], reference: str) -> Pairing:
    """Pair every ON with its reference.

    Parameters
    ----------
    on, off
        (subscan number, time in integer microseconds) of ON subscans and of OFF subscans with a valid dump.
    reference
        ``nearest`` or ``interp``.
    """
    if not off:
        raise NoReference(
            "no OFF subscan with a valid dump",
            array="source/sobsmode",
            rule="at least one OFF, OTF-OFF or REF",
            fix="without an OFF a scan cannot be calibrated",
        )
    refs, weights = PAIRINGS[reference]([t for _, t in on], [t for _, t in off])
    numbers = [(off[i][0], off[j][0]) for i, j in refs]
    return Pairing(
        np.array([s for s, _ in on], np.int32),
        np.array(numbers, np.int32).reshape(-1, 2),
        np.array(weights).reshape(-1, 2),
    )
