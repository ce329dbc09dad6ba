"""Making an opacity table: what to compute, and the table from what am gave; an interrupted call is resumed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from calib_gpu.atm import radiative
from calib_gpu.atm.files import write_table
from calib_gpu.atm.sites import Site, read_site
from calib_gpu.atm.spectra import Computation
from calib_gpu.atm.table import OpacityTable
from calib_gpu.errors import ConfigError
from calib_gpu.physics.radiation import physical_temperature, rayleigh_jeans_temperature
from calib_gpu.store import disk
from calib_gpu.store.documents import dump_json

Floats = NDArray[np.float64]

AIRMASS: Final = (1.0, 1.5, 3.0)
"""Airmasses of t_eff: a quadratic through them holds from the zenith to 15 deg (docs/atmosphere.md)."""

MAX_POINTS: Final = 1_000_000


@dataclass(frozen=True)
class TableSpec:
    """What to compute.

    Attributes
    ----------
    site
        Name of a site, or the path of a TOML file.
    band_hz, step_hz
        Ends and spacing of the frequencies; the band is widened to multiples of the step.
    pressure_hpa
        Pressures at the telescope, increasing; empty: those of the site.
    pwv_mm
        The two PWVs; None: those of the site.
    temperature_k
        Temperature at the telescope; None: that of the profile.
    date
        Date of creation for the attributes, given so that the same input gives the same bytes; empty: none.
    refine
        Whether frequencies are added where lines are narrower than the step (:mod:`calib_gpu.atm.refine`).
    """

    site: str
    band_hz: tuple[float, float]
    step_hz: float = 2e6
    pressure_hpa: tuple[float, ...] = ()
    pwv_mm: tuple[float, float] | None = None
    temperature_k: float | None = None
    date: str = ""
    refine: bool = True

    def complete(self, site: Site) -> TableSpec:
        """With the values of the site where none are given; :class:`ConfigError` if one is impossible."""
        spec = replace(self, pressure_hpa=self.pressure_hpa or site.pressure_hpa, pwv_mm=self.pwv_mm or site.pwv_fit_mm)
        low, high = spec.band_hz
        assert spec.pwv_mm is not None
        if not 0.0 < low < high <= 1.5e13 or not spec.step_hz > 0.0 or not spec.size > 2:
            raise ConfigError(
                "not a band", array="--band", value=spec.band_hz, rule="0 < LO < HI <= 15 THz, two steps wide"
            )
        if spec.size > MAX_POINTS:
            raise ConfigError("too many frequencies", array="--step", value=spec.size, rule=f"<= {MAX_POINTS}")
        if not 0.0 < spec.pwv_mm[0] < spec.pwv_mm[1]:
            raise ConfigError("not two PWVs", array="--pwv", value=spec.pwv_mm, rule="0 < first < second, mm")
        if np.any(np.diff(spec.pressure_hpa) <= 0.0):
            raise ConfigError("pressures do not increase", array="--pressure", value=spec.pressure_hpa)
        for pressure in spec.pressure_hpa:
            site.above(pressure)
        return spec

    @property
    def numbers(self) -> tuple[int, int]:
        """First and last frequency in steps."""
        low, high = (edge / self.step_hz for edge in self.band_hz)
        return int(np.floor(low + 1e-6)), int(np.ceil(high - 1e-6))

    @property
    def size(self) -> int:
        """Number of frequencies F."""
        return self.numbers[1] - self.numbers[0] + 1


def make_table(
    spec: TableSpec, path: Path, workers: int = 0, progress: Callable[[int, int], None] | None = None
) -> OpacityTable:
    """Compute a table and write it; what an interrupted call left in ``<path>.parts`` is used.

    Parameters
    ----------
    workers
        Processes; 0: one a usable core.
    progress
        Called with the points done and their total.

    Raises
    ------
    ConfigError
        am-python is not here; the spec is impossible; the parts are of another table.
    OutputError
        ``path`` exists, or cannot be written.
    """
    if path.exists():
        raise disk.not_empty(path)
    site = read_site(spec.site)
    spec = spec.complete(site)
    parts = path.with_name(path.name + ".parts")
    generator = radiative.generator()
    profiles = _profiles(spec, site)
    _claim(parts, _digest(spec, profiles, generator))
    spectra = Computation(profiles, spec.numbers, spec.step_hz, AIRMASS, parts, workers, progress)
    frequency, values = spectra.refined() if spec.refine else spectra.coarse()
    table = _assemble(spec, site, frequency, values, path.name, generator)
    write_table(path, table)
    disk.remove_tree(parts)
    return table


def _profiles(spec: TableSpec, site: Site) -> list[list[Floats]]:
    """The profile of each layer and PWV."""
    assert spec.pwv_mm is not None
    return [
        [
            radiative.scaled_profile(site.above(p, spec.temperature_k), site.fixed_water_above_hpa, w)
            for w in spec.pwv_mm
        ]
        for p in spec.pressure_hpa
    ]


def _digest(spec: TableSpec, profiles: list[list[Floats]], generator: str) -> str:
    state = {"generator": generator, **asdict(spec)}
    values = b"".join(rows.tobytes() for layer in profiles for rows in layer)
    return hashlib.sha256(json.dumps(state, sort_keys=True).encode() + values).hexdigest()


def _claim(parts: Path, digest: str) -> None:
    """The folder of the pieces; its mark tells of which table they are."""
    mark = parts / "table.json"
    if mark.is_file():
        if mark.read_bytes() != dump_json({"digest": digest}):
            raise ConfigError("holds pieces of another table", array=str(parts), fix="remove it, or give another --out")
        return
    disk.make_dirs(parts)
    disk.replace_file(mark, dump_json({"digest": digest}))


def _assemble(
    spec: TableSpec, site: Site, frequency: Floats, values: Floats, name: str, generator: str
) -> OpacityTable:
    """b, c and t_eff from the spectra ``[L, W, 1 + A, F]``."""
    assert spec.pwv_mm is not None
    pwv, tau = np.array(spec.pwv_mm), values[:, :, 0]
    b = (tau[:, 1] - tau[:, 0]) / (pwv[1] - pwv[0])
    ground = [float(site.above(p, spec.temperature_k)[-1, 1]) for p in spec.pressure_hpa]
    attrs = {
        "site": site.name, "site_title": site.title, "site_altitude_m": site.altitude_m, "profile_origin": site.origin,
        "ground_temperature_k": ground, "pwv_fit_mm": list(spec.pwv_mm), "generator": generator,
        "credit": radiative.CREDIT, **({"date": spec.date} if spec.date else {}),
        "profile_columns": ["pressure_hpa", "temperature_k", "h2o_ppm", "o3_ppm"], "profile": site.profile.tolist(),
    }  # fmt: skip
    return OpacityTable(
        frequency, 100.0 * np.array(spec.pressure_hpa), b, tau[:, 0] - b * pwv[0],
        effective_temperature(frequency, values[:, :, 1:], tau[:, :, None] * np.array(AIRMASS)[:, None]),
        name, pwv=pwv, airmass=np.array(AIRMASS), attrs=attrs,
    )  # fmt: skip


def effective_temperature(frequency: Floats, sky: Floats, y: Floats) -> Any:
    """T_eff [K] from J_sky = J(T_eff) (1 - t) + J(T_bg) t: ``sky`` in Rayleigh-Jeans K and slant opacity ``y``, ``[..., F]``."""
    background = rayleigh_jeans_temperature(frequency, radiative.BACKGROUND_K)
    j = (sky - background * np.exp(-y)) / -np.expm1(-y)
    return physical_temperature(frequency, j)
