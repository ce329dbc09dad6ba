"""What an opacity table holds, in words."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from calib_gpu.atm.builtin import builtin_tables
from calib_gpu.atm.sites import read_site, shipped_sites
from calib_gpu.atm.table import OpacityTable
from calib_gpu.atm.units import water_text


def describe_table(table: OpacityTable) -> Iterator[str]:
    """Lines about a table."""
    attrs, nu = table.attrs, table.frequency
    steps = np.diff(nu) / 1e6
    step = f"{steps.min():g}" if np.ptp(steps) < 1e-6 * steps.max() else f"{steps.min():g} to {steps.max():g}"
    yield f"table:        {table.name}{' (synthetic: for simulations only)' if table.synthetic else ''}"
    yield f"frequency:    {nu[0] / 1e9:g} to {nu[-1] / 1e9:g} GHz, {nu.size} points, step {step} MHz"
    yield f"pressure:     {', '.join(f'{p / 100:.5g}' for p in table.pressure)} hPa"
    if fit := attrs.get("pwv_fit_mm"):
        yield f"b and c from: {', '.join(water_text(float(w)) for w in fit)}"
    for k, p in enumerate(table.pressure):
        line = f"at {p / 100:.5g} hPa:".ljust(13) + " "
        line += f"b median {np.median(table.b[k]):.4g}, {table.b[k].min():.4g} to {table.b[k].max():.4g} Np/mm; "
        line += f"c median {np.median(table.c[k]):.4g}, {table.c[k].min():.4g} to {table.c[k].max():.4g} Np"
        yield line
    if table.t_eff is None:
        yield "T_eff:        none (t_atm=table is not possible)"
    else:
        at = ""
        if table.t_eff.ndim == 4:
            at = f", at {', '.join(water_text(w) for w in table.pwv)} and airmass {', '.join(f'{x:g}' for x in table.airmass)}"
        yield f"T_eff:        {table.t_eff.min():.1f} to {table.t_eff.max():.1f} K{at}"
    for key, text in (
        ("site_title", "site"), ("ground_temperature_k", "ground, K"), ("profile_origin", "profile"), ("generator", "made by"),
        ("credit", "credit"), ("date", "date"), ("files", "files"), ("fit_misfit_largest", "misfit"),
    ):  # fmt: skip
        if key in attrs:
            value = attrs[key]
            value = (
                ", ".join(f"{v:g}" if isinstance(v, float) else str(v) for v in value)
                if isinstance(value, list)
                else value
            )
            yield f"{text + ':':14}{value}"


def describe_package() -> Iterator[str]:
    """Lines about the tables and sites of the package."""
    yield "tables (--atmosphere auto takes the one that fits):"
    for table in builtin_tables():
        pressures = ", ".join(f"{p / 100:g}" for p in table.pressure)
        yield f"  {table.name:42} {pressures} hPa; b and c from {', '.join(water_text(w) for w in table.pwv)}"
    yield "sites (calib-gpu atm make --site):"
    for name in shipped_sites():
        site = read_site(name)
        pressures = ", ".join(f"{p:g}" for p in site.pressure_hpa)
        yield f"  {name:18} {site.title}; {pressures} hPa"
