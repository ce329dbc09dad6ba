"""The tables that come with the package: made by am for typical profiles of three kinds of sites (docs/atmosphere.md)."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Final

import numpy as np

from calib_gpu.atm.files import read_table
from calib_gpu.atm.table import OpacityTable
from calib_gpu.errors import AtmRange, ConfigError

TABLES: Final = (
    ("cerro-chajnantor", 455.0, 500.0),
    ("cerro-chajnantor", 795.0, 825.0),
    ("chajnantor", 210.0, 240.0),
    ("chajnantor", 330.0, 370.0),
    ("airborne", 1880.0, 1920.0),
    ("airborne", 4700.0, 4780.0),
)
"""Site and band in GHz of every table, made by ``scripts/make_tables``."""


def table_name(site: str, low: float, high: float) -> str:
    """Name of a table in the package."""
    return f"{site}-{low:g}-{high:g}GHz"


def table_folder() -> Path:
    """Where the tables lie."""
    return Path(str(resources.files("calib_gpu.atm") / "tables"))


@cache
def builtin_table(name: str) -> OpacityTable:
    """A built-in table by its name."""
    known = [table_name(*row) for row in TABLES]
    if name not in known:
        raise ConfigError("no such built-in table", array="--atmosphere", value=name, rule=" | ".join(known))
    return replace(read_table(table_folder() / name), name=f"builtin:{name}")


def given_table(text: str) -> OpacityTable:
    """A table by its path, or a built-in one as ``builtin:NAME``."""
    kind, _, name = text.partition(":")
    return builtin_table(name) if kind == "builtin" else read_table(text)


def builtin_tables() -> tuple[OpacityTable, ...]:
    """All built-in tables."""
    return tuple(builtin_table(table_name(*row)) for row in TABLES)


def find_builtin(*axes: np.ndarray, pressure: float | None = None) -> OpacityTable:
    """The built-in table for frequencies [Hz] and a pressure [Pa], of several the one whose layers are nearest.

    Raises
    ------
    AtmRange
        None covers all frequencies, or none is for such a pressure.
    """
    low, high = min(float(a.min()) for a in axes), max(float(a.max()) for a in axes)
    near = [row for row in TABLES if row[1] * 1e9 < high and row[2] * 1e9 > low]
    tables = [table for table in (builtin_table(table_name(*row)) for row in near) if table.covers(*axes)]
    if not tables:
        have = ", ".join(f"{band[0]:g}-{band[1]:g}" for _, *band in TABLES)
        raise AtmRange(
            "no built-in opacity table covers both sidebands", array="atmosphere",
            value=f"{low / 1e9:.4f} to {high / 1e9:.4f} GHz", rule=f"built-in: {have} GHz",
            fix="make one (calib-gpu atm make), give it with --atmosphere TABLE; or --atmosphere none",
        )  # fmt: skip
    if pressure is None:
        return tables[0]
    suitable = [table for table in tables if table.suits(pressure)]
    if not suitable:
        have = ", ".join(f"{t.pressure[0] / 100:g}-{t.pressure[-1] / 100:g} hPa ({t.name})" for t in tables)
        raise AtmRange(
            "no built-in opacity table is for this pressure", array="source/pamb", value=f"{pressure / 100:.4g} hPa",
            rule=f"within 5 % of {have}", fix="make one (calib-gpu atm make), give it with --atmosphere TABLE",
        )  # fmt: skip
    return min(suitable, key=lambda table: abs(float(np.log(pressure / table.pressure.mean()))))
