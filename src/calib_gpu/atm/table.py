"""The opacity table: zenith opacity tau = b w + c per frequency and pressure, and its emission (physics, section 4.1)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from calib_gpu.errors import AtmRange, ConfigError
from calib_gpu.physics.atmosphere import Opacity
from calib_gpu.physics.emission import Emission
from calib_gpu.physics.radiation import rayleigh_jeans_temperature

Floats = NDArray[np.float64]

EDGE_TOLERANCE: Final = 1e-9
"""Relative rounding allowed at the ends of the frequency axis."""

PRESSURE_MARGIN: Final = 0.05
"""How far outside its layers, relatively, a table may be chosen by itself; the opacity is clamped there."""


class _Layers(NamedTuple):
    """The two layers around a pressure, the weight of the second, and whether the pressure was clamped."""

    low: int
    high: int
    weight: float
    clamped: bool

    def row(self, values: Floats, window: slice) -> Floats:
        """``[L, ..., F]`` at the pressure, ``[..., window]``."""
        if self.weight == 0.0:
            return values[self.low, ..., window]
        return (1.0 - self.weight) * values[self.low, ..., window] + self.weight * values[self.high, ..., window]


class _Places(NamedTuple):
    """Where frequencies lie on the axis of the table: the window that they need, the places in it, the weights."""

    window: slice
    cell: NDArray[np.intp]
    weight: Floats

    def value(self, row: Floats) -> Floats:
        """Linear interpolation of ``[..., window]`` at the frequencies ``[..., C]``."""
        low = np.take(row, self.cell, axis=-1)
        step = np.take(np.diff(row), self.cell, axis=-1)
        step *= self.weight
        step += low
        return np.asarray(step)


@dataclass(frozen=True)
class OpacityTable:
    """Zenith opacity coefficients on a grid, and the temperature at which the atmosphere radiates.

    Attributes
    ----------
    frequency
        ``[F]`` Hz, topocentric, increasing.
    pressure
        ``[L]`` Pa, increasing.
    b, c
        ``[L, F]``: b in Np per mm of water vapour, c (dry) in Np.
    t_eff
        Effective radiating temperature in K at the PWVs ``pwv`` and the airmasses ``airmass``, ``[L, W, A, F]``; or
        ``[L, F]``, one temperature for all; or None. Defined by J_sky = J(nu, t_eff) (1 - t) + J(nu, T_bg) t.
    name
        Name or path, for the records.
    synthetic
        True for a table that is fit for simulations only.
    pwv, airmass
        ``[W]`` mm (one or two values) and ``[A]``, increasing; empty with ``t_eff[L, F]``.
    attrs
        What else the table says of itself: origin, generator, site.
    """

    frequency: Floats
    pressure: Floats
    b: Floats
    c: Floats
    t_eff: Floats | None
    name: str
    synthetic: bool = False
    pwv: Floats = field(default_factory=lambda: np.empty(0))
    airmass: Floats = field(default_factory=lambda: np.empty(0))
    attrs: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        shape = (self.pressure.size, self.frequency.size)
        nodes = (self.pwv.size, self.airmass.size)
        wanted = shape if nodes == (0, 0) else (shape[0], *nodes, shape[1])
        tables = [t for t in (self.b, self.c, self.t_eff) if t is not None]
        if any(t.shape != shape for t in (self.b, self.c)) or shape[0] < 1 or shape[1] < 2:
            raise ConfigError(
                "shapes do not fit",
                array=self.name,
                value=[t.shape for t in tables],
                rule=f"[L,F] = {shape}, L >= 1, F >= 2",
            )
        if self.t_eff is not None and (self.t_eff.shape != wanted or nodes[0] > 2 or 0 in self.t_eff.shape):
            raise ConfigError(
                "shapes do not fit", array=f"{self.name}/t_eff", value=self.t_eff.shape,
                rule=f"{wanted}: [L,F], or [L,W,A,F] with pwv_mm[W], W <= 2, and airmass[A]",
            )  # fmt: skip
        axes = (self.frequency, self.pressure, self.pwv, self.airmass)
        if not all(np.all(np.isfinite(v)) for v in (*axes, *tables)):
            raise ConfigError("holds values that are not numbers", array=self.name, rule="all finite")
        if any(np.any(np.diff(axis) <= 0) or np.any(axis <= 0) for axis in axes):
            raise ConfigError(
                "axes not increasing",
                array=self.name,
                rule="frequency_hz, pressure_pa, pwv_mm and airmass > 0 and strictly increasing",
            )

    def covers(self, *axes: Floats) -> bool:
        """True if all frequencies [Hz] lie inside the table."""
        low, high = self.frequency[0] * (1 - EDGE_TOLERANCE), self.frequency[-1] * (1 + EDGE_TOLERANCE)
        return all(bool(axis.min() >= low and axis.max() <= high) for axis in axes)

    def suits(self, pressure: float) -> bool:
        """True if a pressure [Pa] lies in the layers or within 5 % of them."""
        low, high = self.pressure[0] * (1 - PRESSURE_MARGIN), self.pressure[-1] * (1 + PRESSURE_MARGIN)
        return bool(low <= pressure <= high)

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
        layers = self._layers(pressure)
        zero = np.zeros_like(signal)
        b_s, c_s = self._lookup(signal, layers)
        b_i, c_i = (zero, zero) if image is None else self._lookup(image, layers)
        return Opacity(b_s, c_s, b_i, c_i, image is not None, layers.clamped)

    def emission(self, frequency: Floats, pressure: float | None) -> Emission:
        """Coefficients of the emission of one band on the channels of a scan; parameters as for :meth:`opacity`.

        Raises
        ------
        AtmRange
            A frequency lies outside the table.
        ConfigError
            The table has no ``t_eff``.
        """
        if self.t_eff is None:
            raise ConfigError("the opacity table has no t_eff", array=self.name, fix="give a table with t_eff")
        layers, places = self._layers(pressure), self._places(frequency)
        b, c, t_eff = (layers.row(v, places.window) for v in (self.b, self.c, self.t_eff))
        nodes = t_eff.reshape(max(self.pwv.size, 1), max(self.airmass.size, 1), -1)
        j_eff = rayleigh_jeans_temperature(self.frequency[places.window], nodes)
        on_grid = Emission.of(j_eff, b, c, self.pwv, self.airmass)
        return Emission(places.value(on_grid.wet), places.value(on_grid.dry))

    def ground_temperature(self, pressure: float | None) -> float | None:
        """Temperature at the telescope for which the emission holds, K, linear in pressure; None if it is not told."""
        told = np.ravel(self.attrs.get("ground_temperature_k", ()))
        if told.dtype.kind not in "iuf" or told.size != self.pressure.size or not np.all(told > 0.0):
            return None
        layers = self._layers(pressure)
        return float(layers.row(told[:, None].astype(np.float64), slice(None))[0])

    def _layers(self, pressure: float | None) -> _Layers:
        if self.pressure.size == 1 or pressure is None:
            return _Layers(0, 0, 0.0, False)
        clipped = float(np.clip(pressure, self.pressure[0], self.pressure[-1]))
        upper = int(np.clip(np.searchsorted(self.pressure, clipped), 1, self.pressure.size - 1))
        low, high = self.pressure[upper - 1], self.pressure[upper]
        return _Layers(upper - 1, upper, float((clipped - low) / (high - low)), clipped != pressure)

    def _places(self, axis: Floats) -> _Places:
        if not self.covers(axis):
            raise AtmRange(
                "frequency outside the opacity table", array=self.name,
                value=f"{axis.min() / 1e9:.4f} to {axis.max() / 1e9:.4f} GHz",
                rule=f"{self.frequency[0] / 1e9:.4f} to {self.frequency[-1] / 1e9:.4f} GHz",
                fix="give a table that covers both sidebands (--atmosphere TABLE), or --atmosphere none",
            )  # fmt: skip
        low, high = axis.min(), axis.max()
        ends = np.searchsorted(self.frequency, (low, high), side="right") - 1
        first, last = (int(v) for v in np.clip(ends, 0, self.frequency.size - 2))
        window = slice(first, last + 2)
        grid = self.frequency[window]
        inside = axis if grid[0] <= low and high <= grid[-1] else np.clip(axis, grid[0], grid[-1])
        cell = _cells(grid[1:-1], inside)
        weight = inside - np.take(grid, cell)
        weight /= np.take(np.diff(grid), cell)
        return _Places(window, cell, weight)

    def _lookup(self, axis: Floats, layers: _Layers) -> tuple[Floats, Floats]:
        places = self._places(axis)
        b, c = (places.value(layers.row(table, places.window)) for table in (self.b, self.c))
        return b, c


def _cells(edges: Floats, axis: Floats) -> NDArray[np.intp]:
    """How many of the increasing ``edges`` are at or below each frequency of an axis ``[C]``.

    Channels are in order, and mostly closer than the edges: where the edges lie among them is found in a fraction of the time.
    """
    falling = axis[0] > axis[-1]
    rising = axis[::-1] if falling else axis
    if edges.size > axis.size or np.any(rising[1:] < rising[:-1]):
        return np.searchsorted(edges, axis, side="right").astype(np.intp)
    count = np.diff(np.searchsorted(rising, edges), prepend=0, append=axis.size)
    cells = np.arange(edges.size + 1)
    return np.repeat(cells[::-1], count[::-1]) if falling else np.repeat(cells, count)
