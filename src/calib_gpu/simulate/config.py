"""What to simulate: sizes, physics and defects of a night of observations."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, fields
from typing import Any, Final

from calib_gpu.errors import ConfigError
from calib_gpu.simulate.air import GROUND_K, PRESSURE_HPA

Shape = tuple[int, int, int, int, int]

PRESETS: Final[dict[str, Shape]] = {
    "tiny": (1024, 8, 1, 2, 8),
    "S": (4096, 16, 1, 7, 12),
    "M": (16384, 40, 1, 7, 27),
    "L": (16384, 60, 3, 7, 60),
    "XL": (65536, 60, 1, 64, 12),
}
"""Shape (C, D, R, A, S) of ``source/data_5d`` of each science scan (formats, section 10)."""

FIRST_SCAN: Final = 25650
SCANS: Final = {"tiny": 3, "S": 2, "M": 1, "L": 1, "XL": 1}

SIGNAL_HZ: Final = 492.160651e9
IMAGE_HZ: Final = SIGNAL_HZ - 12e9
BAND_HZ: Final = 4e9

LAYERS: Final = {"pressure": PRESSURE_HPA, "t_amb": GROUND_K}
"""Values that ``sky=layers`` needs."""

_COUNTS_MAX: Final = 1e8  # a hot load and its noise stay within int32


@dataclass(frozen=True)
class SimulationConfig:
    """A simulated night. Everything is fixed by these values: the same ones give the same bytes.

    Attributes
    ----------
    preset
        Size of a science scan, a name of :data:`PRESETS`.
    shape
        (C, D, R, A, S) instead of the preset's.
    seed
        Seed of all random numbers, >= 0.
    mode
        ``otf``: maps row by row; ``tp``: total power at one position.
    n_scans
        Science scans, numbered from :data:`FIRST_SCAN`; None: 3 (tiny), 2 (S), else 1.
    night
        Adds, among the science scans, a scan that holds loads only (it serves the second science scan, which then has
        none of its own; needs ``n_scans`` >= 2) and the broken scan; None: true for tiny and S, else false.
    broken
        With ``night``: adds a last scan that has no OFF subscan and cannot be calibrated.
    noise
        Radiometer noise, sigma = (C - Z) / sqrt(channel spacing * dump_time), in every sample.
    dtype
        ``int32``: counts as a spectrometer gives them; ``float64``: not rounded, for closure tests.
    dump_time
        Integration time of a dump, s.
    load_dumps
        Dumps of each load subscan.
    t_hot, t_cold
        Physical load temperatures, K.
    t_amb
        Ambient temperature, K.
    sky
        ``slab``: air of one temperature with the opacity of the built-in table, of which the engine's default settings return the
        truth; ``layers``: what am computes for a layered profile, of which telescope profiles do (``t_atm=table``). Layers need
        the pressure and ``t_amb`` of their profile, 0.1 to 1.5 mm of water and elevations above 19.5 deg.
    t_atm_factor
        Temperature of a slab over ``t_amb``. L0 does not tell it; with 1 the engine's default returns the truth.
    t_spill
        Temperature that the rearward spillover sees, K; None: ambient. Written to L0 where given.
    t_bg
        Temperature of the cosmic background, K (2.725; 0 leaves it out, as the engine does by default).
    pressure
        Ambient pressure, hPa.
    t_rec
        Receiver noise temperature (DSB), K, mean of all pixels.
    counts
        Counts of the sky at the band centre, mean of all pixels.
    zero_level
        Counts without any input; if not 0, the loads include a ZERO subscan.
    gain_drift
        Relative change of the gain in the time of one scan, linear in time, constant within a subscan.
    g_sig, gain_scatter
        Normalised signal gain, mean of all pixels, and its rms scatter from pixel to pixel.
    eta_f
        Forward efficiency.
    pwv, pwv_drift
        Water vapour, mm, and its change in the time of one scan, mm, linear in time, constant within a subscan.
    elevation, elevation_drift
        Elevation, deg, and its change in the time of one scan, deg.
    line_peak, line_width, line_offset
        Line in the signal band: peak T_A*, K; FWHM, Hz; offset from the reference channel, Hz.
    line_shape
        ``gaussian``, or ``double`` for two peaks 1.5 FWHM apart, the second at 60 %.
    continuum
        Peak of the continuum source, which enters through both sidebands, K.
    source_size
        FWHM of the source as the telescope sees it, arcsec: that of the beam for a point source. A map is three times as wide.
    source_lon, source_lat
        Where the source is: its offset from the position to which all offsets refer, arcsec.
    dead_pixels
        Number of pixels without any signal, counted from the last.
    load_spikes
        Channels per pixel in which interference lifts COLD above HOT, in every load measurement.
    padding
        Every third ON subscan is shorter by this number of dumps and padded with missing samples.
    holes, saturation
        Fractions of the ON and OFF samples that are missing, and that are saturated.
    """

    preset: str = "tiny"
    shape: Shape | None = None
    seed: int = 1
    mode: str = "otf"
    n_scans: int | None = None
    night: bool | None = None
    broken: bool = True
    noise: bool = True
    dtype: str = "int32"
    dump_time: float = 1.0
    load_dumps: int = 4
    t_hot: float = 293.0
    t_cold: float = 78.0
    t_amb: float = 268.0
    sky: str = "slab"
    t_atm_factor: float = 1.0
    t_spill: float | None = None
    t_bg: float = 0.0
    pressure: float = 530.0
    t_rec: float = 150.0
    counts: float = 1e6
    zero_level: float = 0.0
    gain_drift: float = 0.0
    g_sig: float = 0.5
    gain_scatter: float = 0.02
    eta_f: float = 0.94
    pwv: float = 0.5
    pwv_drift: float = 0.0
    elevation: float = 50.0
    elevation_drift: float = 0.0
    line_peak: float = 20.0
    line_width: float = 60e6
    line_offset: float = 300e6
    line_shape: str = "gaussian"
    continuum: float = 2.0
    source_size: float = 80.0
    source_lon: float = 0.0
    source_lat: float = 0.0
    dead_pixels: int = 0
    load_spikes: int = 0
    padding: int = 0
    holes: float = 0.0
    saturation: float = 0.0

    def __post_init__(self) -> None:
        _choice("preset", self.preset, tuple(PRESETS))
        _choice("mode", self.mode, ("otf", "tp"))
        _choice("dtype", self.dtype, ("int32", "float64"))
        _choice("sky", self.sky, ("slab", "layers"))
        _choice("line_shape", self.line_shape, ("gaussian", "double"))
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, float) and not math.isfinite(value):
                raise _wrong(field.name, value, "a finite number")
        c, d, r, a, s = self.counts_shape
        if min(c, d, r, a) < 1 or s < 2:
            raise _wrong("shape", (c, d, r, a, s), "C, D, R, A >= 1 and S >= 2 (an OFF and an ON)")
        if self.n_scans is not None and self.n_scans < 1:
            raise _wrong("n_scans", self.n_scans, ">= 1")
        if self.seed < 0:
            raise _wrong("seed", self.seed, ">= 0")
        for name in (
            "dump_time",
            "t_cold",
            "t_amb",
            "t_atm_factor",
            "pressure",
            "pwv",
            "line_width",
            "source_size",
            "t_rec",
        ):
            _between(self, name, 0.0, math.inf, low_too=False)
        if self.t_spill is not None:
            _between(self, "t_spill", 0.0, math.inf, low_too=False)
        _between(self, "t_hot", self.t_cold, math.inf, low_too=False)
        _between(self, "t_bg", 0.0, math.inf)
        _between(self, "counts", 1e3, _COUNTS_MAX)
        _between(self, "zero_level", -_COUNTS_MAX, _COUNTS_MAX)
        _between(self, "eta_f", 0.0, 1.0, low_too=False)
        _between(self, "g_sig", 0.0, 1.0, low_too=False)
        _between(self, "gain_scatter", 0.0, 0.1)
        _between(self, "load_dumps", 1, 100)
        if self.sky == "layers":
            for name, value in {**LAYERS, "t_atm_factor": 1.0}.items():
                if getattr(self, name) != value:
                    raise _wrong(name, getattr(self, name), f"{value:g} with sky=layers")
        if self.channel_spacing * self.dump_time < 100.0:
            raise _wrong("dump_time", self.dump_time, "|dnu| dump_time >= 100: noise below 10 % of the counts")
        _between(self, "dead_pixels", 0, r * a)
        _between(self, "load_spikes", 0, c)
        _between(self, "padding", 0, d - 1)
        _between(self, "holes", 0.0, 1.0)
        _between(self, "saturation", 0.0, 1.0)

    @property
    def counts_shape(self) -> Shape:
        """Shape (C, D, R, A, S) of the counts of a science scan."""
        return PRESETS[self.preset] if self.shape is None else self.shape

    @property
    def science_scans(self) -> int:
        """Number of science scans, the broken one not counted."""
        return SCANS[self.preset] if self.n_scans is None else self.n_scans

    @property
    def whole_night(self) -> bool:
        """Whether the loads-only scan and the broken scan are added."""
        return self.preset in ("tiny", "S") if self.night is None else self.night

    @property
    def channel_spacing(self) -> float:
        """Channel spacing dnu, Hz: 4 GHz over C channels."""
        return BAND_HZ / self.counts_shape[0]

    @property
    def saturation_level(self) -> int | None:
        """Counts of a saturated sample (attribute ``adc_saturation``), None where none are asked for."""
        return int(8 * self.counts + max(self.zero_level, 0.0)) if self.saturation > 0.0 else None

    def document(self) -> dict[str, Any]:
        """The values as JSON holds them; :meth:`of` is the inverse."""
        return asdict(self)

    @classmethod
    def of(cls, document: dict[str, Any]) -> SimulationConfig:
        """From :meth:`document`."""
        values = dict(document)
        if values.get("shape") is not None:
            values["shape"] = tuple(values["shape"])
        return cls(**values)


def realistic(preset: str = "S", **changes: Any) -> SimulationConfig:
    """A night as it comes: drifting water vapour and gain, interference in the loads; a dead pixel and padding if small.

    What ``calib-gpu simulate`` and ``calib-gpu demo`` use; ``changes`` are fields of :class:`SimulationConfig`.
    """
    _choice("preset", preset, tuple(PRESETS))
    _, n_dump, n_r, n_a, _ = PRESETS[preset]
    defects: dict[str, Any] = {"pwv_drift": 0.01, "gain_drift": 5e-4, "load_spikes": 5} | _ground(changes)
    if preset in ("tiny", "S"):
        defects |= {"padding": 1 if n_dump > 1 else 0, "dead_pixels": 1 if n_r * n_a >= 7 else 0}
    return SimulationConfig(preset, **(defects | changes))


def closure(preset: str = "tiny", **changes: Any) -> SimulationConfig:
    """A configuration without noise, rounding, drifts and defects, whose calibration must return the truth.

    ``changes`` set fields of :class:`SimulationConfig` on top.
    """
    plain: dict[str, Any] = {"preset": preset, "noise": False, "dtype": "float64", "broken": False}
    return SimulationConfig(**(plain | _ground(changes) | changes))


def _ground(changes: dict[str, Any]) -> dict[str, Any]:
    """Pressure and temperature at the telescope, where layers end."""
    return LAYERS if changes.get("sky") == "layers" else {}


def _wrong(name: str, value: Any, rule: str) -> ConfigError:
    return ConfigError("not possible in a simulation", array=name, value=value, rule=rule)


def _choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise _wrong(name, value, f"one of {', '.join(choices)}")


def _between(config: SimulationConfig, name: str, low: float, high: float, *, low_too: bool = True) -> None:
    value = getattr(config, name)
    if not (low <= value <= high) or (value == low and not low_too):
        rule = f"{'>=' if low_too else '>'} {low:g}" + ("" if math.isinf(high) else f" and <= {high:g}")
        raise _wrong(name, value, rule)
