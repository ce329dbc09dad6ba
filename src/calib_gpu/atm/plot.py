"""A picture of an opacity table."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from calib_gpu.atm.table import OpacityTable
from calib_gpu.atm.units import water_text
from calib_gpu.errors import ConfigError
from calib_gpu.physics.atmosphere import transmission
from calib_gpu.pictures import refuse_picture, write_picture

LINES: Final = ("#1b9e77", "#2c6fbb", "#d9731a", "#a03070", "#6a6a6a", "#8a7a00")
_BESIDE: Final[dict[str, Any]] = {"loc": "upper left", "bbox_to_anchor": (1.0, 1.03), "frameon": False}


def usual_waters(table: OpacityTable) -> list[float]:
    """PWVs for a picture, mm: those of the table, and half-way between."""
    fit = table.attrs.get("pwv_fit_mm") or ([float(w) for w in table.pwv] if table.pwv.size else [0.5, 1.0])
    low, high = float(min(fit)), float(max(fit))
    return [low, float(f"{0.5 * (low + high):.2g}"), high]


def plot_table(
    table: OpacityTable, path: Path, pwv: Sequence[float] = (), airmass: float = 1.0, pressure: float | None = None,
    *, overwrite: bool = False,
) -> None:  # fmt: skip
    """Draw transmission, opacity, b and c, and T_eff over frequency into a PNG, PDF or SVG file.

    Parameters
    ----------
    pwv
        Water vapours in mm; empty: :func:`usual_waters`.
    pressure
        Pa; None: the middle layer.

    Raises
    ------
    ConfigError
        matplotlib is not here, or the file has another ending.
    OutputError
        The file cannot be written, or is no picture of this program and ``overwrite`` is not set.
    """
    try:
        import matplotlib
    except ImportError:
        raise ConfigError("matplotlib draws, and is not here", fix="pip install 'calib-gpu[plot]'") from None
    refuse_picture(path, overwrite=overwrite)
    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    waters = sorted(pwv) or usual_waters(table)
    if pressure is None:
        pressure = float(table.pressure[table.pressure.size // 2])
    opacity = table.opacity(table.frequency, None, pressure)
    rows = 3 if table.t_eff is None else 4
    figure, axes = plt.subplots(
        rows, 1, sharex=True, figsize=(10, 2.6 * rows + 0.8), layout="constrained",
        height_ratios=[1.5, 1.2, 1.2, 0.9][:rows],
    )  # fmt: skip
    ghz = table.frequency / 1e9
    for color, w in zip(LINES, reversed(waters), strict=False):
        tau = opacity.b_signal * w + opacity.c_signal
        axes[0].plot(ghz, transmission(tau, airmass), color=color, lw=0.8, label=water_text(w))
        axes[1].plot(ghz, tau, color=color, lw=0.8)
    axes[2].plot(ghz, opacity.b_signal, color="black", lw=0.9, label="wet: b [Np/mm]")
    axes[2].plot(ghz, opacity.c_signal, color="#8c8c8c", lw=0.8, label="dry: c [Np]")
    axes[0].set(ylim=(0, 1.02), ylabel=f"transmission\nat airmass {airmass:g}")
    axes[1].set(ylabel="zenith opacity [Np]")
    axes[2].set(ylabel="b and c")
    for ax in axes[1:3]:
        _logarithmic(ax)
    axes[0].legend(title="water vapour", **_BESIDE)
    axes[2].legend(**_BESIDE)
    if table.t_eff is not None:
        _temperatures(axes[3], table, ghz, pressure)
    axes[-1].set(xlabel="frequency [GHz]", xlim=(ghz[0], ghz[-1]))
    for ax in axes:
        ax.grid(alpha=0.3, lw=0.5)
    title = table.attrs.get("site_title", "")
    figure.suptitle(f"{table.name}: {title + ', ' if title else ''}{pressure / 100:g} hPa", fontsize=11)
    try:
        write_picture(figure, path, dpi=150)
    finally:
        plt.close(figure)


def _logarithmic(ax: Any) -> None:
    """A logarithmic axis over what is drawn and > 0, with plain numbers; the deepest 0.1 % may fall below it."""
    from matplotlib import ticker

    drawn = np.concatenate([line.get_ydata() for line in ax.get_lines()])
    drawn = drawn[drawn > 0.0]
    low, high = np.percentile(drawn, 0.1), drawn.max()
    many = high / low > 30.0
    ax.set_yscale("log")
    ax.set_ylim(low / 1.15, high * 1.15)
    ax.yaxis.set_major_locator(ticker.LogLocator(subs=(1.0,) if many else (1.0, 2.0, 5.0)))
    ax.yaxis.set_major_formatter(ticker.FormatStrFormatter("%g"))
    ax.yaxis.set_minor_formatter(ticker.NullFormatter())


def _temperatures(ax: Any, table: OpacityTable, ghz: Any, pressure: float) -> None:
    """T_eff at the first and last PWV and airmass of the table."""
    assert table.t_eff is not None
    layer = table.t_eff[int(np.argmin(np.abs(table.pressure - pressure)))]
    if layer.ndim == 1:
        ax.plot(ghz, layer, color=LINES[1], lw=0.8)
    else:
        for k, color in ((-1, LINES[3]), (0, LINES[5])):
            for a, style in ((0, "-"), (-1, ":")):
                label = f"{water_text(table.pwv[k])}, airmass {table.airmass[a]:g}"
                ax.plot(ghz, layer[k, a], color=color, lw=0.8, ls=style, label=label)
        ax.legend(**_BESIDE)
    ax.set(ylabel="T_eff [K]")
