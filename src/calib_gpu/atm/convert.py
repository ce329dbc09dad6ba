"""Text and CSV tables of opacities or transmissions to an opacity table."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from calib_gpu.atm.table import OpacityTable
from calib_gpu.errors import ConfigError

Floats = NDArray[np.float64]

QUANTITIES: Final = ("transmission", "opacity")
LOWEST_TRANSMISSION: Final = 1e-6
"""Below it a transmission tells no opacity; it is taken as this."""


@dataclass(frozen=True)
class Columns:
    """What the columns of a text table are; the first is the frequency.

    Attributes
    ----------
    frequency_hz
        Unit of the frequencies in Hz.
    pwv_mm
        PWV of each further column; empty: they are b and c, and maybe t_eff in K.
    quantity
        ``transmission`` or ``opacity`` (Np, both along the line of sight), with ``pwv_mm``.
    airmass
        Airmass of transmissions and opacities.
    water_mm
        Unit of water in mm, for b: Np per this unit.
    """

    frequency_hz: float = 1e9
    pwv_mm: tuple[float, ...] = ()
    quantity: str = "transmission"
    airmass: float = 1.0
    water_mm: float = 1.0

    def __post_init__(self) -> None:
        if self.quantity not in QUANTITIES:
            raise ConfigError("no such quantity", array="--quantity", value=self.quantity, rule=" | ".join(QUANTITIES))
        if self.pwv_mm and (len(self.pwv_mm) < 2 or len(set(self.pwv_mm)) < len(self.pwv_mm)):
            raise ConfigError("not enough PWVs", array="--pwv", value=self.pwv_mm, rule="two or more, all different")
        if not self.airmass >= 1.0:
            raise ConfigError("not an airmass", array="--airmass", value=self.airmass, rule=">= 1")


@dataclass(frozen=True)
class Misfit:
    """How far b w + c is from the transmissions at the airmass of the data: largest and rms difference."""

    largest: float
    rms: float


def read_columns(path: Path) -> Floats:
    """Numbers of a text table ``[rows, columns]``: separated by blanks, commas or semicolons.

    Lines that begin with #, !, ; or % are comments; one line of names in front of the numbers is passed over.

    Raises
    ------
    ConfigError
        The file cannot be read, or a line is not what the others are.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot be read: {error}", array=str(path)) from None
    rows: list[list[float]] = []
    named = False
    for number, line in enumerate(lines, 1):
        text = line.strip()
        if not text or text[0] in "#!;%":
            continue
        fields = [part for part in re.split(r"\s*[,;]\s*|\s+", text) if part]
        try:
            values = [float(part) for part in fields]
        except ValueError:
            if rows or named:
                raise ConfigError("not a row of numbers", array=f"{path}, line {number}", value=text[:60]) from None
            named = True
            continue
        if rows and len(values) != len(rows[0]):
            raise ConfigError(
                "another number of columns", array=f"{path}, line {number}", value=len(values), rule=f"{len(rows[0])}"
            )
        rows.append(values)
    if len(rows) < 2:
        raise ConfigError("holds no table", array=str(path), rule="two rows or more")
    table = np.array(rows)
    return np.ascontiguousarray(table[np.argsort(table[:, 0], kind="stable")])


def convert(
    paths: Sequence[Path], pressure_pa: Sequence[float], columns: Columns
) -> tuple[OpacityTable, Misfit | None]:
    """A table of one layer per file, and the misfit where b and c were fitted.

    Raises
    ------
    ConfigError
        A file is not such a table, or the files do not fit together.
    """
    if len(paths) != len(pressure_pa):
        raise ConfigError("one pressure a file", array="--pressure", value=len(pressure_pa), rule=f"{len(paths)}")
    order = np.argsort(pressure_pa)
    read = [read_columns(paths[i]) for i in order]
    for path, table in zip((paths[i] for i in order), read, strict=True):
        _check_columns(path, table, columns)
        if table.shape[0] != read[0].shape[0] or not np.array_equal(table[:, 0], read[0][:, 0]):
            raise ConfigError("other frequencies than the first layer", array=str(path), rule="the same in all files")
    layers = [_fit(table, columns) for table in read]
    b, c = (np.array([layer[k] for layer in layers]) for k in (0, 1))
    t_eff = None if columns.pwv_mm or read[0].shape[1] < 4 else np.array([table[:, 3] for table in read])
    attrs: dict[str, object] = {"generator": "calib-gpu atm convert", "files": [paths[i].name for i in order]}
    misfit = None
    if columns.pwv_mm:
        attrs["pwv_fit_mm"] = sorted(columns.pwv_mm)
        difference = np.array([layer[2] for layer in layers])
        misfit = Misfit(float(np.abs(difference).max()), float(np.sqrt(np.mean(difference**2))))
        attrs |= {"fit_misfit_largest": misfit.largest, "fit_misfit_rms": misfit.rms}
    frequency = read[0][:, 0] * columns.frequency_hz
    pressure = np.array([pressure_pa[i] for i in order])
    return OpacityTable(frequency, pressure, b, c, t_eff, paths[0].stem, attrs=attrs), misfit


def _check_columns(path: Path, table: Floats, columns: Columns) -> None:
    found, wanted = table.shape[1], 1 + len(columns.pwv_mm)
    if columns.pwv_mm and found != wanted:
        raise ConfigError(
            "another number of columns", array=str(path), value=found, rule=f"{wanted}: frequency, then one a PWV"
        )
    if not columns.pwv_mm and found not in (3, 4):
        raise ConfigError(
            "another number of columns", array=str(path), value=found, rule="frequency, b, c, and maybe t_eff",
            fix="for transmissions or opacities give their PWVs with --pwv",
        )  # fmt: skip
    if not np.all(np.isfinite(table)):
        raise ConfigError("holds values that are not numbers", array=str(path), rule="all finite")
    if columns.pwv_mm and columns.quantity == "transmission" and (table[:, 1:].min() < 0 or table[:, 1:].max() > 1):
        raise ConfigError(
            "not a transmission", array=str(path), value=f"{table[:, 1:].min():g} to {table[:, 1:].max():g}",
            rule="0 to 1", fix="for opacities give --quantity opacity",
        )  # fmt: skip


def _fit(table: Floats, columns: Columns) -> tuple[Floats, Floats, Floats]:
    """B and c as given, or by least squares in the transmission (opacities weighted with its square); misfit ``[F, W]``."""
    if not columns.pwv_mm:
        return table[:, 1] / columns.water_mm, table[:, 2], np.zeros((table.shape[0], 0))
    x, w = columns.airmass, np.array(columns.pwv_mm)
    given = table[:, 1:]
    t = given if columns.quantity == "transmission" else np.exp(-given)
    t = np.maximum(t, LOWEST_TRANSMISSION)
    tau = (given if columns.quantity == "opacity" else -np.log(t)) / x
    weight = t * t
    total = weight.sum(axis=1)
    mean_w, mean_tau = (np.sum(weight * v, axis=1) / total for v in (w, tau))
    off = w - mean_w[:, None]
    b = np.sum(weight * off * tau, axis=1) / np.sum(weight * off * off, axis=1)
    c = mean_tau - b * mean_w
    return b, c, np.exp(-x * (b[:, None] * w + c[:, None])) - t
