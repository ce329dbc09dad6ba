"""The truth of a simulation, kept beside its store, and the T_A* that follows from it.

``night.zarr`` goes with ``night.truth.zarr``, a plain Zarr v3 group::

    night.truth.zarr/            attrs: format, format_version, config (the SimulationConfig), roles (of each scan number)
      receiver/  trec, gain [C,R,A]; gain_sig, gain_img [R,A]; dead [R,A]; spiked [C,R,A]
      sky/       frequency_signal, frequency_image, b_signal, c_signal, b2_signal, b_image, c_image, b2_image,
                 line_profile [C]
      scan_025650/               attrs: role, load_scan
                 on_index [S_on]; pwv, airmass, gain_factor [S]; line_amplitude, continuum_amplitude [D,R,A,S_on]

Units and meanings are those of :class:`Truth` and :class:`ScanTruth`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from calib_gpu.errors import StoreUnusable, Unreadable
from calib_gpu.physics.atmosphere import transmission
from calib_gpu.simulate.config import SimulationConfig
from calib_gpu.store.chunks import ChunkedArray
from calib_gpu.store.kinds import TRUTH_FORMAT
from calib_gpu.store.l0_write import COMPRESSOR
from calib_gpu.store.metadata import group_attrs, node_kind
from calib_gpu.store.small import write_array, write_group

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

FORMAT_VERSION: Final = "1.1"

# group, name, axes, unit
_TABLE: Final = (
    ("receiver", "trec", "C R A", "K"),
    ("receiver", "gain", "C R A", "1/K"),
    ("receiver", "gain_sig", "R A", ""),
    ("receiver", "gain_img", "R A", ""),
    ("receiver", "dead", "R A", ""),
    ("receiver", "spiked", "C R A", ""),
    ("sky", "frequency_signal", "C", "Hz"),
    ("sky", "frequency_image", "C", "Hz"),
    ("sky", "b_signal", "C", "1/mm"),
    ("sky", "c_signal", "C", ""),
    ("sky", "b2_signal", "C", "1/mm2"),
    ("sky", "b_image", "C", "1/mm"),
    ("sky", "c_image", "C", ""),
    ("sky", "b2_image", "C", "1/mm2"),
    ("sky", "line_profile", "C", "K"),
)
_SINCE_1_1: Final = {"b2_signal": "b_signal", "b2_image": "b_image"}
"""Arrays that are 0 in older stores, and what they are like."""
_SCAN_TABLE: Final = (
    ("on_index", "S_on", ""),
    ("pwv", "S", "mm"),
    ("airmass", "S", ""),
    ("gain_factor", "S", ""),
    ("line_amplitude", "D R A S_on", ""),
    ("continuum_amplitude", "D R A S_on", "K"),
)


@dataclass(frozen=True)
class ScanTruth:
    """The truth of one scan that has a ``source`` group.

    Attributes
    ----------
    role
        ``science``, or ``broken`` for a scan without OFF.
    load_scan
        The scan whose loads serve it.
    on_index
        Numbers of the ON subscans in L0, ``[S_on]``.
    pwv, airmass
        Water vapour, mm, and airmass of every subscan, ``[S]``.
    gain_factor
        Gain of every subscan over that at the start of the night, ``[S]``.
    line_amplitude
        Strength of the line, 1 at the centre of the source, ``[D, R, A, S_on]``.
    continuum_amplitude
        Strength of the continuum, K, ``[D, R, A, S_on]``.
    """

    role: str
    load_scan: int
    on_index: NDArray[np.int32]
    pwv: Floats
    airmass: Floats
    gain_factor: Floats
    line_amplitude: Floats
    continuum_amplitude: Floats


@dataclass(frozen=True)
class Truth:
    """What a simulated store was made of.

    Attributes
    ----------
    config
        The configuration.
    roles
        ``science``, ``loads`` or ``broken`` for every scan number.
    trec
        Receiver noise temperature (DSB, Planck), K, ``[C, R, A]``.
    gain
        Receiver gain G at the start of the night, counts per K at the receiver input, ``[C, R, A]``; 0 in dead pixels.
    gain_sig, gain_img
        Normalised sideband gains, ``[R, A]``.
    dead, spiked
        Dead pixels ``[R, A]``; channels in which COLD is spoilt ``[C, R, A]``.
    frequency_signal, frequency_image
        Frequencies, Hz, ``[C]``.
    b_signal, c_signal, b2_signal, b_image, c_image, b2_image
        Zenith opacity tau = c + b pwv + b2 pwv^2 of both sidebands, ``[C]``: c in Np, b in Np per mm, b2 in Np per mm^2
        (0 for a slab).
    line_profile
        T_A* of the line at the centre of the source, K, ``[C]``.
    scans
        Truth of each scan with a ``source`` group.
    """

    config: SimulationConfig
    roles: Mapping[int, str]
    trec: Floats
    gain: Floats
    gain_sig: Floats
    gain_img: Floats
    dead: Bools
    spiked: Bools
    frequency_signal: Floats
    frequency_image: Floats
    b_signal: Floats
    c_signal: Floats
    b2_signal: Floats
    b_image: Floats
    c_image: Floats
    b2_image: Floats
    line_profile: Floats
    scans: Mapping[int, ScanTruth]

    def transmission(self, scan: int, subscan: int) -> tuple[Floats, Floats]:
        """Transmission of both sidebands towards a subscan (its number in L0), exp(-X tau), ``[C]``."""
        w, x = float(self.scans[scan].pwv[subscan]), float(self.scans[scan].airmass[subscan])
        signal = (self.b2_signal * w + self.b_signal) * w + self.c_signal
        image = (self.b2_image * w + self.b_image) * w + self.c_image
        return transmission(signal, x), transmission(image, x)


def expected_spectra(truth: Truth, scan: int, on: int, r: int, a: int) -> Floats:
    """T_A* that a perfect calibration returns, ``[C, D]``, K, on the single-sideband line scale.

    T_A* = T_line + T_cont (g_s t_s + g_i t_i) / (g_s t_s): continuum enters through both sidebands (physics, 3.1).
    Defects (dead pixels, spoilt loads, missing samples) and the baseline left by unequal airmass of ON and OFF are
    not part of it.

    Parameters
    ----------
    truth
        From :func:`calib_gpu.simulate.simulate` or :func:`read_truth`.
    scan
        Scan number.
    on
        ON subscan, counted among the ON subscans: the S axis of L1.
    r, a
        Pixel.
    """
    of = truth.scans[scan]
    t_s, t_i = truth.transmission(scan, int(of.on_index[on]))
    g_s, g_i = truth.gain_sig[r, a], truth.gain_img[r, a]
    both = (g_s * t_s + g_i * t_i) / (g_s * t_s)
    line = truth.line_profile[:, None] * of.line_amplitude[None, :, r, a, on]
    return np.asarray(line + both[:, None] * of.continuum_amplitude[None, :, r, a, on])


def truth_path(out: str | os.PathLike[str]) -> Path:
    """Where the truth of a store is: ``night.zarr`` -> ``night.truth.zarr``."""
    path = Path(out)
    return path.with_name(path.name.removesuffix(".zarr") + ".truth.zarr")


def write_truth(path: Path, truth: Truth) -> None:
    """Write the truth to a new group."""
    roles = {str(number): role for number, role in truth.roles.items()}
    attrs = {
        "format": TRUTH_FORMAT,
        "format_version": FORMAT_VERSION,
        "config": truth.config.document(),
        "roles": roles,
    }
    write_group(path, attrs)
    for group in ("receiver", "sky"):
        write_group(path / group, {})
    for group, name, axes, unit in _TABLE:
        _write_array(path / group / name, getattr(truth, name), axes, unit)
    for number, scan in truth.scans.items():
        folder = path / f"scan_{number:06d}"
        write_group(folder, {"role": scan.role, "load_scan": scan.load_scan})
        for name, axes, unit in _SCAN_TABLE:
            _write_array(folder / name, getattr(scan, name), axes, unit)


def _write_array(path: Path, values: NDArray[Any], axes: str, unit: str) -> None:
    write_array(path, values, tuple(axes.split()), {"units": unit} if unit else {}, COMPRESSOR)


def read_truth(path: str | os.PathLike[str]) -> Truth:
    """Read the truth of a simulated store; ``path`` is the truth's own, or that of the store.

    Raises
    ------
    StoreUnusable
        There is no truth at this path.
    """
    folder = Path(path)
    if not folder.name.endswith(".truth.zarr"):
        folder = truth_path(folder)
    try:
        attrs = group_attrs(folder) if node_kind(folder) == "group" else {}
        if attrs.get("format") != TRUTH_FORMAT:
            raise StoreUnusable(
                "not the truth of a simulation", array=str(folder), rule="a Zarr group written by simulate"
            )
        values = {name: _read_array(folder / group / name) for group, name, _, _ in _TABLE if name not in _SINCE_1_1}
        for name, like in _SINCE_1_1.items():
            there = node_kind(folder / "sky" / name) == "array"
            values[name] = _read_array(folder / "sky" / name) if there else np.zeros_like(values[like])
        scans = {
            int(p.name.removeprefix("scan_")): ScanTruth(
                **group_attrs(p), **{name: _read_array(p / name) for name, _, _ in _SCAN_TABLE}
            )
            for p in sorted(folder.glob("scan_*"))
        }
    except Unreadable as error:
        raise StoreUnusable(str(error), fix="simulate again") from None
    roles = {int(number): role for number, role in attrs["roles"].items()}
    return Truth(config=SimulationConfig.of(attrs["config"]), roles=roles, scans=scans, **values)


def _read_array(path: Path) -> Any:
    return ChunkedArray(path, f"{path.parent.name}/{path.name}", absent_is_fill=False).values()
