"""Every knob once: default, unit, bounds, meaning; the layers that set it; the digest of those that change numbers.

Precedence: option or ``--set`` > ``--config`` file > the L0 store's own values > ``--profile`` > default.
"""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from calib_gpu.errors import ConfigError

MIB: Final = 1024 * 1024
AUTO_PRECISION_BITS: Final = 6
AUTO_BINS: Final = 1024
AUTO_BINS_ABOVE: Final = 4096
GAIN_NOTATIONS: Final = (("gain_sig", "gain_img"), ("g_sig",), ("image_ratio",))


def _knob(
    default: Any,
    meaning: str,
    unit: str = "",
    *,
    choices: tuple[str, ...] = (),
    low: float | None = None,
    high: float | None = None,
    numeric: bool = True,
) -> Any:
    meta = {"meaning": meaning, "unit": unit, "choices": choices, "low": low, "high": high, "numeric": numeric}
    return field(default=default, metadata=meta)


@dataclass(frozen=True, init=False)
class Settings:
    """All settings of a run; ``Settings(eta_f=0.94)`` sets one as an option would, :meth:`layered` adds files.

    ``origin`` tells for each setting that is not at its default which layer set it.
    """

    # what is calibrated, and how ON, OFF and loads are paired
    mode: str = _knob("auto", "observing mode", choices=("auto", "tp", "otf"))
    reference: str = _knob(
        "nearest",
        "reference of an ON: nearest OFF, or interpolated between the bracketing OFFs",
        choices=("nearest", "interp"),
    )
    tp_ref: str = _knob(
        "first", "total power: first valid dump of the OFF, or the mean of its dumps", choices=("first", "mean")
    )
    pair_on: str = _knob(
        "mid", "time used for pairing: mid-time of the subscan, or mjd as stored", choices=("mid", "mjd")
    )
    loads: str = _knob(
        "nearest",
        "load set in time: nearest, the one before, or linear between two",
        choices=("nearest", "previous", "linear"),
    )
    max_load_age: float = _knob(1800.0, "oldest load set that is found by time", "s", low=0.0)
    max_load_gap: float = _knob(1800.0, "widest gap between two load sets for loads=linear", "s", low=0.0)
    # atmosphere
    atmosphere: str = _knob("auto", "opacity table: auto, none, builtin:NAME, or the path of a table")
    pwv: str | float = _knob("fit", "fit the water vapour, or a fixed value", "mm", choices=("fit",), low=0.0)
    pwv_scope: str = _knob(
        "scan",
        "one fit for the scan; per_pixel and per_off are diagnostics beside it",
        choices=("scan", "per_pixel", "per_off"),
    )
    pwv_min: float = _knob(0.01, "lower bound of the fit", "mm", low=1e-9)
    pwv_max: float = _knob(10.0, "upper bound of the fit", "mm", low=1e-9)
    pwv_header: float | None = _knob(
        None, "PWV of the weather station, used where the fit is unconstrained", "mm", low=0.0
    )
    pwv_default: float = _knob(1.0, "PWV where there is no other", "mm", low=0.0)
    min_points: int = _knob(16, "least number of data for a fit", low=1)
    fit_weights: str = _knob(
        "unit", "weights of the fit: equal, or those of the radiometer equation", choices=("unit", "radiometer")
    )
    fit_bins: str | int = _knob(
        "auto",
        "bin the counts into so many bins for the fit; 0: every channel; auto: 1024 bins above 4096 channels",
        "bins",
        choices=("auto",),
        low=0,
    )
    fit_windows: str = _knob(
        "", "topocentric signal frequencies that the fit uses: LO:HI[,LO:HI ...] in GHz; empty: the whole band"
    )
    dry_scale: str | float = _knob(
        1.0,
        "factor of the dry opacity: a value, fit (with the water vapour), or auto (fit where chi2 demands it)",
        choices=("fit", "auto"),
        low=0.0,
    )
    pwv_clip: bool = _knob(False, "clip the residuals of the fit once, at 4 MAD, and fit again")
    t_atm: str | float = _knob(
        "ambient",
        "temperature of the atmosphere: ambient, factor, table, or a value",
        "K",
        choices=("ambient", "factor", "table"),
        low=1e-3,
    )
    t_atm_factor: float = _knob(0.954, "T_atm / T_amb for t_atm=factor", low=0.1, high=2.0)
    t_spill: str | float = _knob(
        "ambient", "temperature seen by the rearward spillover: ambient or a value", "K", choices=("ambient",), low=0.0
    )
    t_bg: float = _knob(0.0, "temperature of the cosmic background (2.725; 0 leaves it out)", "K", low=0.0)
    airmass: str = _knob("plane_parallel", "airmass model", choices=("plane_parallel", "shell"))
    shell_height_km: float = _knob(4.0, "thickness of the shell for airmass=shell", "km", low=0.01)
    airmass_mode: str = _knob(
        "per_subscan", "airmass of each ON subscan, or the mean of all", choices=("per_subscan", "scan_mean")
    )
    t_min: float = _knob(0.01, "least transmission; below it samples are flagged OPAQUE", low=0.0, high=1.0)
    # receiver and telescope
    eta_f: float = _knob(1.0, "forward efficiency", low=1e-3, high=1.0)
    eta_h: float = _knob(1.0, "coupling to the hot load", low=0.0, high=1.0)
    eta_c: float = _knob(1.0, "coupling to the cold load", low=0.0, high=1.0)
    gain_sig: float | None = _knob(None, "signal-band gain weight (with gain_img; 0.5 without any gain)", low=1e-9)
    gain_img: float | None = _knob(None, "image-band gain weight", low=0.0)
    g_sig: float | None = _knob(
        None, "normalised signal gain (instead of the weights); 1 for single sideband", low=1e-9, high=1.0
    )
    image_ratio: float | None = _knob(None, "image-to-signal gain ratio (instead of the weights)", low=0.0)
    zero_level: float = _knob(0.0, "counts without input, where there is no ZERO subscan", "counts")
    adc_saturation: float | None = _knob(
        None, "counts from which a sample is saturated (L0 attribute of the same name)", "counts", low=0.0
    )
    trec_convention: str = _knob("planck", "convention of T_rec in L1", choices=("planck", "callen_welton"))
    enbw: float = _knob(
        1.0, "noise bandwidth of a channel over its spacing, for the radiometer equation in QA", low=0.1, high=10.0
    )
    site_lon: float | None = _knob(
        None, "longitude of the telescope, east, for the velocity of LSR frequencies", "deg", low=-360.0, high=360.0
    )
    site_lat: float | None = _knob(None, "latitude of the telescope (with site_lon)", "deg", low=-90.0, high=90.0)
    site_height: float = _knob(0.0, "height of the telescope (with site_lon)", "m", low=-500.0, high=50e3)
    # bad channels
    clip_counts: float = _knob(
        0.01, "bad where HOT - COLD is below this fraction of its smoothed maximum", low=0.0, high=1.0
    )
    clip_trec: float = _knob(5.0, "bad where T_rec exceeds this many times its median", low=1.0)
    smooth_width: int = _knob(33, "width of the running mean for clip_counts, odd", "channels", low=1)
    edge_fraction: float = _knob(0.0, "fraction of the band that is bad at each end", low=0.0, high=0.49)
    # QA: nothing is flagged because of these
    trec_max: float | None = _knob(None, "QA names pixels whose median T_rec,DSB is above this", "K", low=0.0)
    tsys_max: float | None = _knob(None, "QA names pixels whose median T_sys (T_A* scale) is above this", "K", low=0.0)
    # output
    dtype: str = _knob("float64", "type of the spectra in L1", choices=("float64", "float32"))
    precision: str | int = _knob(
        "off",
        "round T_A* to a power of two at most 2^-BITS of the radiometer noise of a dump; auto: 6 bits (1/64)",
        "bits",
        choices=("off", "auto"),
        low=1,
        high=40,
    )
    # how it is run: changes no number
    codec: str = _knob(
        "auto",
        "compression of the spectra; auto: zstd, with precision blosc_lz4; nvcomp_zstd: zstd, on the GPU",
        choices=("auto", "zstd", "blosc_zstd", "blosc_lz4", "nvcomp_zstd"),
        numeric=False,
    )
    level: int = _knob(-1, "zstd level of L1 (blosc: 1 to 9)", low=-7, high=19, numeric=False)
    backend: str = _knob("auto", "where the arithmetic runs", choices=("auto", "numpy", "cupy"), numeric=False)
    workers: int = _knob(0, "worker threads; 0: one per core that the process may use", low=0, high=1024, numeric=False)
    memory: int = _knob(
        144 * MIB, "memory for the arrays of a scan and the tile buffers", "bytes", low=16 * MIB, numeric=False
    )
    device_memory: int = _knob(0, "memory of the GPU for tiles; 0: as much as they need", "bytes", low=0, numeric=False)
    slots: int = _knob(0, "tiles on the GPU at a time; 0: workers + 3", low=0, high=4096, numeric=False)
    gpu_reader: str = _knob(
        "host", "who decodes counts for the GPU", choices=("host", "nvcomp", "kvikio"), numeric=False
    )
    # what is refused of L0: changes no number
    require_checksum: bool = _knob(
        False, "refuse scans with an array that has no checksum, where damage would not be seen", numeric=False
    )
    max_scan_bytes: int = _knob(64 * 1024 * MIB, "largest counts of a scan", "bytes", low=1, numeric=False)
    max_chunk_bytes: int = _knob(
        256 * MIB, "largest chunk, decoded, and largest index of a shard", "bytes", low=1, numeric=False
    )
    max_scans: int = _knob(100_000, "most scans in a store", low=1, numeric=False)
    max_attribute_bytes: int = _knob(MIB, "most attributes of a group or an array", "bytes", low=1, numeric=False)
    overwrite: bool = _knob(False, "calibrate again and replace what is done, with whatever settings", numeric=False)
    quiet: bool = _knob(False, "no progress, only warnings and errors", numeric=False)
    origin: Mapping[str, str] = field(default_factory=dict)

    def __init__(self, *, origin: Mapping[str, str] | None = None, **values: Any) -> None:
        names = knobs()
        for name in values:
            if name not in names:
                raise ConfigError("no such setting", array=name, fix=suggestion(name))
        for name, knob in names.items():
            object.__setattr__(self, name, _checked(knob, values[name]) if name in values else knob.default)
        object.__setattr__(self, "origin", dict(origin) if origin is not None else dict.fromkeys(values, "option"))
        self._check_together()

    @classmethod
    def layered(
        cls,
        options: Mapping[str, Any] | None = None,
        config: Mapping[str, Any] | None = None,
        profile: Mapping[str, Any] | None = None,
    ) -> Settings:
        """Build from the three layers that are not L0; a gain notation is taken whole from one layer."""
        values: dict[str, Any] = {}
        origin: dict[str, str] = {}
        for layer, given in (("profile", profile), ("config", config), ("option", options)):
            given = dict(given or {})
            notations = [n for n in GAIN_NOTATIONS if any(given.get(k) is not None for k in n)]
            if len(notations) > 1:
                used = ", ".join(k for n in notations for k in n if k in given)
                raise ConfigError(
                    "two notations of the sideband gains", array=used, rule=f"one notation in one {layer}"
                )
            if notations:
                for name in (k for n in GAIN_NOTATIONS for k in n):
                    values.pop(name, None)
                    origin.pop(name, None)
            table = (profile or {}).get("atmosphere", "auto")
            if layer != "profile" and given.get("atmosphere") == "auto" and table not in ("auto", "none"):
                given["atmosphere"] = table  # auto: the profile's table, where it has one
            values.update(given)
            origin.update(dict.fromkeys(given, layer))
        return cls(origin=origin, **values)

    def _check_together(self) -> None:
        if not self.pwv_min < self.pwv_max:
            raise ConfigError(
                "empty range", array="pwv_min", value=self.pwv_min, rule=f"must be below pwv_max = {self.pwv_max}"
            )
        if not self.eta_h + self.eta_c > 1.0:
            raise ConfigError(
                "load couplings leave no contrast",
                array="eta_h + eta_c",
                value=self.eta_h + self.eta_c,
                rule="must be > 1",
            )
        _ = self.windows_hz
        if self.smooth_width % 2 == 0:
            raise ConfigError("even width", array="smooth_width", value=self.smooth_width, rule="must be odd")
        given = [n for n in GAIN_NOTATIONS if any(getattr(self, k) is not None for k in n)]
        if len(given) > 1:
            raise ConfigError(
                "two notations of the sideband gains", array=", ".join(k for n in given for k in n), rule="give one"
            )
        if (self.gain_sig is None) != (self.gain_img is None):
            raise ConfigError("one gain weight without the other", array="gain_sig, gain_img", rule="give both")
        if (self.site_lon is None) != (self.site_lat is None):
            raise ConfigError("half of a position", array="site_lon, site_lat", rule="give both")

    @property
    def windows_hz(self) -> tuple[tuple[float, float], ...]:
        """The windows of the fit, Hz; none for the whole band."""
        try:
            windows = [tuple(float(v) * 1e9 for v in part.split(":")) for part in self.fit_windows.split(",") if part]
        except ValueError:
            windows = [()]
        if not all(len(w) == 2 and 0.0 < w[0] < w[1] < float("inf") for w in windows):
            raise ConfigError(
                "not windows", array="fit_windows", value=self.fit_windows, rule="LO:HI[,LO:HI ...] in GHz, 0 < LO < HI"
            )
        return tuple((w[0], w[1]) for w in windows)

    def bins_of(self, n_channel: int) -> int | None:
        """Bins of the fit of the water vapour in a band of so many channels; None where every channel counts alone."""
        if isinstance(self.fit_bins, str):
            return AUTO_BINS if n_channel > AUTO_BINS_ABOVE else None
        return min(self.fit_bins, n_channel) or None

    @property
    def precision_bits(self) -> int | None:
        """Bits kept below the radiometer noise; None where T_A* is not rounded."""
        named = {"off": None, "auto": AUTO_PRECISION_BITS}
        return named[self.precision] if isinstance(self.precision, str) else self.precision

    @property
    def codec_used(self) -> str:
        """The codec of the spectra: for ``auto`` what is fastest, by measurement (docs/performance.md)."""
        auto = "zstd" if self.precision_bits is None else "blosc_lz4"
        return auto if self.codec == "auto" else self.codec

    def layer(self, name: str) -> str:
        """The layer that set ``name``: option, config, profile or default."""
        return self.origin.get(name, "default")

    def outranks_store(self, name: str) -> bool:
        """True where an option or the config file set it, so that the L0 store's own value is not used."""
        return self.layer(name) in ("option", "config")

    def numeric(self) -> dict[str, Any]:
        """The settings that change numbers, by name; a table is named without its folder."""
        values = {name: getattr(self, name) for name, knob in knobs().items() if knob.metadata["numeric"]}
        return values | {"atmosphere": Path(self.atmosphere).name}

    def digest(self) -> str:
        """sha256 over the settings that change numbers and over where each was set (that decides what L0 may override)."""
        origin = {n: "above-store" if self.outranks_store(n) else "below-store" for n in self.numeric()}
        text = json.dumps({"settings": self.numeric(), "origin": origin}, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()


def knobs() -> dict[str, dataclasses.Field[Any]]:
    """All settings by name: default, and metadata meaning, unit, choices, low, high, numeric."""
    return {f.name: f for f in dataclasses.fields(Settings) if f.name != "origin"}


def suggestion(name: str) -> str:
    """What to do about a name that is no setting."""
    close = difflib.get_close_matches(name, knobs(), 3)
    return f"did you mean {' or '.join(close)}?" if close else "all settings are listed in docs/settings.md"


def rule_of(knob: dataclasses.Field[Any]) -> str:
    """The values that a setting takes, in words."""
    meta = knob.metadata
    parts = [" | ".join(meta["choices"])] if meta["choices"] else []
    if "float" in str(knob.type) or "int" in str(knob.type):
        bounds = [f"{sign} {meta[end]:g}" for sign, end in ((">=", "low"), ("<=", "high")) if meta[end] is not None]
        parts.append(
            f"a number{' ' if bounds else ''}{' and '.join(bounds)}{' ' + meta['unit'] if meta['unit'] else ''}"
        )
    return " or ".join(parts) or f"a {knob.type}"


def _checked(knob: dataclasses.Field[Any], value: Any) -> Any:
    """The value in its type, or ConfigError."""
    kind, meta = str(knob.type), knob.metadata
    wrong = ConfigError("value not allowed", array=knob.name, value=value, rule=rule_of(knob))
    if value is None:
        if "None" in kind:
            return None
        raise wrong
    if isinstance(value, bool) or kind == "bool":
        if kind == "bool" and isinstance(value, bool):
            return value
        raise wrong
    if isinstance(value, str):
        if "str" not in kind or (meta["choices"] and value not in meta["choices"]):
            raise wrong
        return value
    if not isinstance(value, int | float) or not ("float" in kind or "int" in kind):
        raise wrong
    if "int" in kind and not float(value).is_integer():
        raise wrong
    number = int(value) if "int" in kind else float(value)
    if number != number or abs(number) == float("inf"):
        raise wrong
    if (meta["low"] is not None and number < meta["low"]) or (meta["high"] is not None and number > meta["high"]):
        raise wrong
    return number
