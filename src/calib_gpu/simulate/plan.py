"""The plan of a simulated night: scans, subscans, times and positions."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from calib_gpu.simulate.config import FIRST_SCAN, Shape, SimulationConfig

Floats = NDArray[np.float64]

START_MJD: Final = 60310.25
SUBSCAN_GAP_S: Final = 2.0
SCAN_GAP_S: Final = 30.0
SUBSCANS_PER_OFF: Final = 4

PIXEL_SPACING_ARCSEC: Final = 30.0
MAP_SIZE: Final = 3.0  # edge of an OTF map, in source sizes
OFF_ARCSEC: Final = (1800.0, 0.0)
TP_ARCSEC: Final = (5.0, -3.0)


@dataclass(frozen=True)
class SubscanPlan:
    """One subscan: ``kind`` ON, OFF, HOT, COLD or ZERO; ``time_s`` its mid-time after the start of the night, s."""

    kind: str
    time_s: float
    n_dump: int


@dataclass(frozen=True)
class GroupPlan:
    """A ``source`` or ``calibration`` group: its subscans, and the shape (C, D, R, A, S) of its counts."""

    name: str
    subscans: tuple[SubscanPlan, ...]
    shape: Shape

    @property
    def times(self) -> Floats:
        """Mid-times ``[S]`` after the start of the night, s."""
        return np.array([s.time_s for s in self.subscans])

    @property
    def on_index(self) -> NDArray[np.int32]:
        """Numbers of the ON subscans ``[S_on]``."""
        return np.array([i for i, s in enumerate(self.subscans) if s.kind == "ON"], np.int32)


@dataclass(frozen=True)
class ScanPlan:
    """A scan: ``role`` is science, loads or broken; ``load_scan`` the scan whose loads serve it."""

    number: int
    role: str
    load_scan: int
    groups: tuple[GroupPlan, ...]


def scan_duration(config: SimulationConfig) -> float:
    """Time of the source subscans of a science scan, s: the unit of time of the drifts."""
    _, d, _, _, s = config.counts_shape
    return s * (d * config.dump_time + SUBSCAN_GAP_S)


def plan_night(config: SimulationConfig) -> tuple[ScanPlan, ...]:
    """All scans of the night in the order of time.

    With ``night`` and two or more science scans: science with own loads, loads only, science served by these loads
    (``lloadsn``), further science scans with own loads, and at last the broken scan, whose subscans are all ON.
    """
    roles = ["science"] * config.science_scans
    if config.whole_night and config.science_scans >= 2:
        roles.insert(1, "loads")
    if config.whole_night and config.broken:
        roles.append("broken")
    clock, scans = 0.0, []
    for number, role in enumerate(roles, FIRST_SCAN):
        served = role == "science" and number > FIRST_SCAN and roles[number - FIRST_SCAN - 1] == "loads"
        groups = []
        if not served:
            kinds = ["HOT", "COLD"] + (["ZERO"] if config.zero_level else [])
            group, clock = _group(config, "calibration", [(k, config.load_dumps) for k in kinds], clock)
            groups.append(group)
        if role != "loads":
            group, clock = _group(config, "source", _sky_subscans(config, role), clock)
            groups.append(group)
        scans.append(ScanPlan(number, role, number - 1 if served else number, tuple(groups)))
        clock += SCAN_GAP_S
    return tuple(scans)


def _sky_subscans(config: SimulationConfig, role: str) -> list[tuple[str, int]]:
    _, d, _, _, s = config.counts_shape
    if role == "broken":
        return [("ON", d), ("ON", d)]
    kinds = ["OFF" if i % SUBSCANS_PER_OFF == 0 else "ON" for i in range(s)]
    ons = [i for i, kind in enumerate(kinds) if kind == "ON"]
    short = set(ons[::3]) if config.padding else set()
    return [(kind, d - config.padding if i in short else d) for i, kind in enumerate(kinds)]


def _group(config: SimulationConfig, name: str, wanted: list[tuple[str, int]], clock: float) -> tuple[GroupPlan, float]:
    """The group, and the time at which it is over."""
    subscans = []
    for kind, n_dump in wanted:
        duration = n_dump * config.dump_time
        subscans.append(SubscanPlan(kind, clock + 0.5 * duration, n_dump))
        clock += duration + SUBSCAN_GAP_S
    c, _, r, a, _ = config.counts_shape
    shape = (c, max(n for _, n in wanted), r, a, len(wanted))
    return GroupPlan(name, tuple(subscans), shape), clock


def beam_offsets(config: SimulationConfig, group: GroupPlan) -> tuple[Floats, Floats]:
    """Offsets of the reference beam from the source, deg, at the mid-time of each dump: longitude, latitude ``[D, S]``.

    OTF: every ON subscan is a row of the map along longitude, forth and back; total power: one position.
    """
    _, d, _, _, s = group.shape
    lon, lat = np.full((d, s), OFF_ARCSEC[0]), np.full((d, s), OFF_ARCSEC[1])
    edge = MAP_SIZE * config.source_size
    along = ((np.arange(d) + 0.5) / d - 0.5) * edge
    for row, i in enumerate(group.on_index):
        if config.mode == "tp":
            lon[:, i], lat[:, i] = TP_ARCSEC
        else:
            lon[:, i] = along if row % 2 == 0 else -along
            lat[:, i] = ((row + 0.5) / group.on_index.size - 0.5) * edge
    return lon / 3600.0, lat / 3600.0


def pixel_offsets(n_r: int, n_a: int) -> tuple[Floats, Floats]:
    """Offsets of the pixels from the reference beam, deg: longitude, latitude ``[R, A]``.

    Up to seven pixels: the centre and a hexagon around it; more: a square grid. All sub-arrays look at the same sky.
    """
    if n_a <= 7:
        angle = (np.arange(n_a) - 1) * math.pi / 3.0
        ring = np.where(np.arange(n_a) == 0, 0.0, PIXEL_SPACING_ARCSEC)
        lon, lat = ring * np.cos(angle), ring * np.sin(angle)
    else:
        edge = math.ceil(math.sqrt(n_a))
        row, column = np.divmod(np.arange(n_a), edge)
        lon, lat = ((k - 0.5 * (edge - 1)) * PIXEL_SPACING_ARCSEC for k in (column, row))
    return np.tile(lon / 3600.0, (n_r, 1)), np.tile(lat / 3600.0, (n_r, 1))
