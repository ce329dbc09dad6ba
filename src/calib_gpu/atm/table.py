"""The opacity table: zenith opacity tau = b w + c per frequency and pressure (physics, section 4.1)."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from calib_gpu.errors import AtmRange, ConfigError, Unreadable
from calib_gpu.physics.atmosphere import Opacity
from calib_gpu.store.chunks import ChunkedArray
from calib_gpu.store.metadata import group_attrs, node_kind

Floats = NDArray[np.float64]

EDGE_TOLERANCE: Final = 1e-9
"""Relative rounding allowed at the ends of the frequency axis."""


@dataclass(frozen=True)
class OpacityTable:
    """Zenith opacity coefficients on a grid.

    Attributes
    ----------
    frequency
        ``[F]`` Hz, topocentric, increasing.
    pressure
        ``[L]`` Pa, increasing.
    b, c
        ``[L, F]``: b in Np per mm of water vapour, c (dry) in Np.
    t_eff
        ``[L, F]`` effective radiating temperature in K, or None.
    name
        Name or path, for the records.
    synthetic
        True for a table that is fit for simulations only.
    """

    frequency: Floats
    pressure: Floats
    b: Floats
    c: Floats
    t_eff: Floats | None
    name: str
    synthetic: bool = False

    def __post_init__(self) -> None:
        shape = (self.pressure.size, self.frequency.size)
        tables = [t for t in (self.b, self.c, self.t_eff) if t is not None]
        if any(t.shape != shape for t in tables) or shape[0] < 1 or shape[1] < 2:
            raise ConfigError(
                "shapes do not fit",
                array=self.name,
                value=[t.shape for t in tables],
                rule=f"[L,F] = {shape}, L >= 1, F >= 2",
            )
        if not all(np.all(np.isfinite(v)) for v in (self.frequency, self.pressure, *tables)):
            raise ConfigError("holds values that are not numbers", array=self.name, rule="all finite")
        if np.any(np.diff(self.frequency) <= 0) or np.any(np.diff(self.pressure) <= 0):
            raise ConfigError(
                "axes not increasing", array=self.name, rule="frequency_hz and pressure_pa strictly increasing"
            )

    def covers(self, *axes: Floats) -> bool:
        """True if all frequencies [Hz] lie inside the table."""
        low, high = self.frequency[0] * (1 - EDGE_TOLERANCE), self.frequency[-1] * (1 + EDGE_TOLERANCE)
        return all(bool(axis.min() >= low and axis.max() <= high) for axis in axes)

    def opacity(self, signal: Floats, image: Floats | None, pressure: float | None) -> Opacity:
        """Coefficients on the channels of a scan, linear in frequency and pressure.

        Parameters
        ----------
        signal, image
            Topocentric frequencies ``[C]``, Hz; no image for single-sideband receivers.
        pressure
            Ambient pressure in Pa; needed for tables of several layers. Outside the layers it is clamped.

        Raises
        ------
        AtmRange
            A frequency lies outside the table.
        """
        for axis in (signal, image):
            if axis is not None and not self.covers(axis):
                raise AtmRange(
                    "frequency outside the opacity table", array=self.name,
                    value=f"{axis.min() / 1e9:.4f} to {axis.max() / 1e9:.4f} GHz",
                    rule=f"{self.frequency[0] / 1e9:.4f} to {self.frequency[-1] / 1e9:.4f} GHz",
                    fix="give a table that covers both sidebands (--atmosphere TABLE), or --atmosphere none",
                )  # fmt: skip
        layers, weight, clamped = self._layers(pressure)
        zero = np.zeros_like(signal)
        (b_s, c_s, t_s) = self._lookup(signal, layers, weight)
        (b_i, c_i, t_i) = (zero, zero, None) if image is None else self._lookup(image, layers, weight)
        return Opacity(b_s, c_s, b_i, c_i, image is not None, clamped, t_s, t_i)

    def _layers(self, pressure: float | None) -> tuple[tuple[int, int], float, bool]:
        """The two layers around a pressure, the weight of the second, and whether the pressure was clamped."""
        if self.pressure.size == 1 or pressure is None:
            return (0, 0), 0.0, False
        clipped = float(np.clip(pressure, self.pressure[0], self.pressure[-1]))
        upper = int(np.clip(np.searchsorted(self.pressure, clipped), 1, self.pressure.size - 1))
        low, high = self.pressure[upper - 1], self.pressure[upper]
        return (upper - 1, upper), float((clipped - low) / (high - low)), clipped != pressure

    def _lookup(self, axis: Floats, layers: tuple[int, int], weight: float) -> tuple[Floats, Floats, Floats | None]:
        def value(table: Floats) -> Floats:
            row = table[layers[0]] if weight == 0.0 else (1.0 - weight) * table[layers[0]] + weight * table[layers[1]]
            return np.asarray(np.interp(axis, self.frequency, row))

        return value(self.b), value(self.c), None if self.t_eff is None else value(self.t_eff)


def read_table(path: str | os.PathLike[str]) -> OpacityTable:
    """Read a table: a Zarr group with ``frequency_hz[F]``, ``pressure_pa[L]``, ``b``, ``c`` and maybe ``t_eff`` ``[L,F]``."""
    folder = Path(path)
    try:
        if node_kind(folder) != "group":
            raise ConfigError(
                "not an opacity table",
                array=str(path),
                rule="a Zarr group with frequency_hz, pressure_pa, b, c",
                fix="give its path, or --atmosphere auto or none",
            )

        def values(name: str, *, needed: bool = True) -> Any:
            if node_kind(folder / name) != "array":
                if needed:
                    raise ConfigError("array is missing", array=f"{path}/{name}")
                return None
            return ChunkedArray(folder / name, name, absent_is_fill=False).values().astype(np.float64)

        b, c, t_eff = values("b"), values("c"), values("t_eff", needed=False)
        attrs = group_attrs(folder)
        return OpacityTable(
            values("frequency_hz"), values("pressure_pa"), b, c, t_eff, folder.name, bool(attrs.get("synthetic", False))
        )
    except Unreadable as error:
        raise ConfigError(str(error)) from None
