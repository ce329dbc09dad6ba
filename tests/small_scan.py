"""A small scan with known truth, made with formulas of its own: nothing here calls the engine's physics.

Tests change its arrays at will before they write it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from calib_gpu.atm.builtin import builtin_tables
from calib_gpu.store.l0_write import L0Writer, ScanId

H_OVER_K = 6.62607015e-34 / 1.380649e-23
TORR = 101325.0 / 760.0


def planck(nu: np.ndarray, t: float) -> np.ndarray:
    """J(nu, T) in K, written out anew."""
    x = H_OVER_K * nu / t
    return t * x / (np.exp(x) - 1.0)


Air = Callable[[np.ndarray, float, float], tuple[np.ndarray, np.ndarray]]
"""From frequencies [Hz], PWV [mm] and airmass: transmission, and brightness of the sky in K."""


def slab(temperature: float, dry_scale: float = 1.0) -> Air:
    """An atmosphere of one temperature with the opacity of the package's table at 530 hPa."""

    def air(nu: np.ndarray, pwv: float, x: float) -> tuple[np.ndarray, np.ndarray]:
        table = next(t for t in builtin_tables() if t.covers(nu))
        b, c = (np.interp(nu, table.frequency, t[1]) for t in (table.b, table.c))
        t = np.exp(-x * (b * pwv + dry_scale * c))
        return t, planck(nu, temperature) * (1.0 - t)

    return air


@dataclass
class SmallScan:
    """Counts and small arrays of one scan; see :func:`small_scan`."""

    number: int
    counts: np.ndarray
    loads: np.ndarray | None
    source: dict[str, Any]
    calibration: dict[str, Any]
    attrs: dict[str, Any]
    truth: dict[str, Any]
    array_attrs: dict[str, Any] = field(default_factory=dict)

    def write(self, store: L0Writer, dtype: str = "float64", *, with_source: bool = True) -> None:
        """Write it into an open store; integer types are rounded."""
        scan = ScanId(self.number)
        store.scan(scan, self.attrs)
        parts = [("source", self.counts, self.source)] if with_source else []
        if self.loads is not None:
            parts.append(("calibration", self.loads, self.calibration))
        for name, counts, arrays in parts:
            values = np.rint(counts) if np.dtype(dtype).kind in "iu" else counts
            shape = tuple(int(n) for n in counts.shape)
            store.group(scan, name, arrays, shape, dtype, self.array_attrs).write_all(values.astype(dtype))  # type: ignore[arg-type]

    def store(self, path: Path, dtype: str = "float64") -> Path:
        """Write it as the only scan of a new store."""
        self.write(L0Writer(path, {"telescope": "test"}), dtype)
        return path


def small_scan(
    number: int = 25650,
    modes: tuple[str, ...] = ("OTF-OFF", "OTF-ON", "OTF-ON", "OTF-OFF", "OTF-ON"),
    *,
    shape: tuple[int, int, int, int] = (64, 3, 2, 2),
    pwv: float = 0.6,
    eta_f: float = 0.95,
    zero: float = 0.0,
    elevation_deg: float = 52.0,
    mjd: float = 60000.0,
    seed: int = 1,
    bands_hz: tuple[float, float] = (492.160651e9, 480.160651e9),
    band_width_hz: float = 4e9,
    dry_scale: float = 1.0,
    air: Air | None = None,
) -> SmallScan:
    """Noise-free counts of eq. (1): OFFs and ONs at one elevation, a line in the ONs, one HOT and one COLD.

    ``bands_hz`` are the centres of signal and image band. The sky is a slab at ambient temperature with the opacity of the
    package's table, its dry part times ``dry_scale``, unless ``air`` gives another.
    """
    c, d, r, a = shape
    rng = np.random.default_rng(seed)
    spacing, (signal_0, image_0) = band_width_hz / c, bands_hz
    steps = (np.arange(c) - c / 2) * spacing
    x = 1.0 / np.sin(np.radians(elevation_deg))
    t_hot, t_cold, t_amb = 295.0, 80.0, 270.0
    (t_s, from_s), (_, from_i) = (
        (air or slab(t_amb, dry_scale))(nu, pwv, x) for nu in (signal_0 + steps, image_0 - steps)
    )
    g_s = rng.uniform(0.4, 0.6, (r, a))
    gain = 2000.0 * (1.0 + 0.3 * np.cos(np.arange(c) / c * 9.0))[:, None, None] * rng.uniform(0.9, 1.1, (r, a))
    trec = (150.0 + 20.0 * np.sin(np.arange(c) / 50.0))[:, None, None] * rng.uniform(0.9, 1.1, (r, a))

    def both(power_s: np.ndarray, power_i: np.ndarray) -> np.ndarray:
        return g_s * power_s[:, None, None] + (1.0 - g_s) * power_i[:, None, None]

    def load(t: float) -> np.ndarray:
        return zero + gain * (trec + both(planck(signal_0 + steps, t), planck(image_0 - steps, t)))

    def sky(nu: np.ndarray, air: np.ndarray) -> np.ndarray:
        return eta_f * air + (1.0 - eta_f) * planck(nu, t_amb)

    off = zero + gain * (trec + both(sky(signal_0 + steps, from_s), sky(image_0 - steps, from_i)))
    line = 30.0 * np.exp(-0.5 * ((np.arange(c) - c / 3) / (c / 20)) ** 2)
    n_on = sum(m.strip().upper().endswith("ON") for m in modes)
    ta = line[:, None, None, None, None] * rng.uniform(0.2, 1.0, (d, r, a, n_on))
    on = off[:, None, :, :, None] + (gain * g_s)[:, None, :, :, None] * eta_f * t_s[:, None, None, None, None] * ta
    counts, k = np.empty((c, d, r, a, len(modes))), 0
    for s, mode in enumerate(modes):
        if mode.strip().upper().endswith("ON"):
            counts[..., s], k = on[..., k], k + 1
        else:
            counts[..., s] = off[:, None]
    loads = np.stack([np.broadcast_to(load(t)[:, None], (c, d, r, a)) for t in (t_hot, t_cold)], axis=-1).copy()

    def coordinates(n: int, start: float) -> dict[str, Any]:
        return {
            "mjd": mjd + (start + 30.0 * np.arange(n)) / 86400.0, "exptime": np.full(n, 3.0 * d),
            "elevation": np.full(n, np.radians(elevation_deg)), "azimuth": np.full(n, 1.0),
            "pamb": np.full(n, 53_000.0 / TORR), "tamb": np.full(n, t_amb),
            "signal_freq": np.full(n, signal_0), "image_freq": np.full(n, image_0),
            "freq_res": np.full(n, spacing), "ref_channel": np.full(n, c / 2.0),
        }  # fmt: skip

    source = {
        "sobsmode": list(modes), **coordinates(len(modes), 0.0), "gain_sig": g_s, "gain_img": 1.0 - g_s, "eta_f": np.array(eta_f),
        "otf_lon": np.zeros((d, len(modes))), "otf_lat": np.zeros((d, len(modes))),
        "frontend_backends": np.array([[f"PX{i}{j}" for j in range(a)] for i in range(r)], dtype=object),
    }  # fmt: skip
    calibration = {
        "sobsmode": ["HOT", "COLD"],
        **coordinates(2, -60.0),
        "thot": np.full(2, t_hot),
        "tcold": np.full(2, t_cold),
    }
    truth = {"ta": ta, "trec": trec, "gain": gain, "pwv": pwv, "t_signal": t_s, "g_signal": g_s, "line": line}
    attrs = {"instmode": "OTF", "frequency_frame": "topocentric", "source_name": "test source"}
    return SmallScan(number, counts, loads, source, calibration, attrs, truth)


def two_bands(path: Path) -> Path:
    """A store of one scan with the bands HFA and LFA."""
    store = L0Writer(path, {})
    for band in ("band_HFA", "band_LFA"):
        scan = small_scan(shape=(16, 2, 1, 1))
        store.scan(ScanId(25650, band), scan.attrs)
        for name, counts, arrays in (
            ("source", scan.counts, scan.source),
            ("calibration", scan.loads, scan.calibration),
        ):
            assert counts is not None
            store.group(ScanId(25650, band), name, arrays, counts.shape, "float64").write_all(counts)  # type: ignore[arg-type]
    return path
