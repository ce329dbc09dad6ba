"""Axes, arrays, flags and subscan classes of L0 and L1: the tables that reader, writer, validator and docs share.

Names and units are those published for the CCAT calibration engine; additions of ours carry ``ours=True``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntFlag
from typing import Final

AXES: Final = {
    "C": "spectrometer channel",
    "D": "dump",
    "R": "receiver or polarisation sub-array",
    "A": "pixel in the sub-array",
    "S": "subscan (in L1: ON subscan)",
    "ref": "the one or two OFF subscans that make a reference",
    "off": "OFF subscan that holds a valid dump",
}

COUNT_AXES: Final = ("C", "D", "R", "A", "S")


@dataclass(frozen=True)
class Array:
    """One array of a store: a row of the tables below.

    ``axes`` lists the accepted axis orders, the preferred one first. ``dtype`` is a NumPy dtype name, or one of the
    groups ``count`` (integer or float), ``float``, ``int`` and ``str``.
    """

    name: str
    axes: tuple[tuple[str, ...], ...]
    dtype: str
    unit: str
    meaning: str
    required: bool = False
    ours: bool = False


def _row(
    name: str, axes: str, dtype: str, unit: str, meaning: str, *, required: bool = False, ours: bool = False
) -> Array:
    orders = tuple(tuple(order.split()) for order in axes.split("|"))
    return Array(name, orders, dtype, unit, meaning, required, ours)


# --- L0 -------------------------------------------------------------------------------------------------------------

_COORDINATES = (
    _row("mjd", "S", "float", "d", "time, MJD (UTC); mid-time unless attribute time_ref is 'start'", required=True),
    _row("exptime", "S", "float", "s", "integration time of the subscan, or of a dump (attribute exptime_kind)"),
    _row("elevation", "S", "float", "rad", "apparent elevation; needed unless there is no atmosphere"),
    _row("azimuth", "S", "float", "rad", "azimuth"),
    _row("pamb", "S", "float", "Torr", "ambient pressure; needed for opacity tables of several layers"),
    _row("tamb", "S", "float", "K", "ambient temperature; needed where the sky model uses it"),
    _row("signal_freq", "S|", "float", "Hz", "signal frequency at the reference channel", required=True),
    _row("image_freq", "S|", "float", "Hz", "image frequency at the reference channel", required=True),
    _row("freq_res", "S|", "float", "Hz", "channel spacing of the signal axis; may be negative", required=True),
    _row("ref_channel", "S|", "float", "", "reference channel, counted from attribute ref_channel_base", required=True),
    _row("freq_off", "S|", "float", "Hz", "offset added to both frequencies if attribute freq_off_applied is false"),
    _row("frontend_backends", "S|R A", "str", "", "pixel identifiers, e.g. HFAV_PX00"),
    _row("n_dump", "S", "int", "", "number of dumps that hold data; later ones are padding", ours=True),
    _row("gain_sig", "|R A|C R A", "float", "", "signal-band gain weight", ours=True),
    _row("gain_img", "|R A|C R A", "float", "", "image-band gain weight", ours=True),
    _row("eta_f", "|S", "float", "", "forward efficiency", ours=True),
)

_COUNTS = (
    _row(
        "data_5d", "C D R A S", "count", "", "spectrometer counts; attribute fill marks missing samples", required=True
    ),
    _row("sobsmode", "S", "str", "", "subscan class: ON, OFF, HOT, COLD, ...", required=True),
)

L0_SOURCE: Final = (
    *_COUNTS,
    *_COORDINATES,
    _row("lloadsn", "S", "int", "", "number of the scan with the last load measurement; <= 0 for none"),
    _row("otf_lon", "D S|S", "float", "deg", "reference-beam longitude offset"),
    _row("otf_lat", "D S|S", "float", "deg", "reference-beam latitude offset"),
    _row("pixel_offset_lon", "R A S|R A", "float", "deg", "pixel longitude offset"),
    _row("pixel_offset_lat", "R A S|R A", "float", "deg", "pixel latitude offset"),
    _row("t_spill", "S|", "float", "K", "physical temperature seen by the rearward spillover", ours=True),
    _row("t_atm", "S|", "float", "K", "physical temperature of the atmosphere", ours=True),
)

L0_CALIBRATION: Final = (
    *_COUNTS,
    *_COORDINATES,
    _row("thot", "S", "float", "K", "physical temperature of the hot load", required=True),
    _row("tcold", "S", "float", "K", "physical temperature of the cold load", required=True),
    _row("load_temp_sig", "C S", "float", "K", "power of the load in the signal band (J scale); overrides thot, tcold"),
    _row("load_temp_img", "C S", "float", "K", "power of the load in the image band (J scale); overrides thot, tcold"),
)

_TEMPERATURE, _FREQUENCY, _ANGLE, _NUMBER = (-1e4, 1e4), (-1e16, 1e16), (-1e4, 1e4), (-1e9, 1e9)
PLAUSIBLE: Final[Mapping[str, tuple[float, float]]] = {
    "mjd": (1.0, 1e6), "exptime": (1e-9, 1e7), "pamb": (-1e4, 1e4), "eta_f": _NUMBER, "ref_channel": _NUMBER,
    **dict.fromkeys(("elevation", "azimuth", "otf_lon", "otf_lat", "pixel_offset_lon", "pixel_offset_lat"), _ANGLE),
    **dict.fromkeys(("tamb", "t_spill", "t_atm", "thot", "tcold", "load_temp_sig", "load_temp_img"), _TEMPERATURE),
    **dict.fromkeys(("signal_freq", "image_freq", "freq_res", "freq_off"), _FREQUENCY),
    **dict.fromkeys(("lloadsn", "n_dump", "gain_sig", "gain_img"), _NUMBER),
}  # fmt: skip
"""Wide limits of every value that is not NaN: beyond them it is no measurement, and sums overflow. Stages have closer ones."""

# --- attributes -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Attribute:
    """An attribute of L0 that L1 has too: a number within ``limits``, or (None) a text, one of ``choices`` if there are any."""

    name: str
    unit: str
    meaning: str
    limits: tuple[float, float] | None = None
    choices: tuple[str, ...] = ()
    ours: bool = True


TOLD: Final = (
    Attribute("telescope", "", "telescope", ours=False),
    Attribute("instrument", "", "instrument", ours=False),
    Attribute("project", "", "project or proposal"),
    Attribute("rest_frequency_hz", "Hz", "rest frequency of the line, for velocities", (1e6, 1e14)),
    Attribute("source_lon_deg", "deg", "longitude of the source, to which offsets refer", (-360.0, 360.0)),
    Attribute("source_lat_deg", "deg", "latitude of the source", (-90.0, 90.0)),
    Attribute("source_system", "", "system of the two; default icrs", choices=("icrs", "galactic")),
    Attribute("offset_frame", "", "system of the offsets otf_lon and otf_lat; default that of the source"),
    Attribute("site_lon_deg", "deg", "longitude of the telescope, east", (-360.0, 360.0)),
    Attribute("site_lat_deg", "deg", "latitude of the telescope", (-90.0, 90.0)),
    Attribute("site_height_m", "m", "height of the telescope; default 0", (-500.0, 50e3)),
)
"""What L0 may tell of itself; needed only where the velocity of LSR frequencies is computed."""

READ_ATTRIBUTES: Final = (
    "fill", "adc_saturation", "time_ref", "exptime_kind", "ref_channel_base", "freq_off_applied", "frequency_frame",
    "frame_velocity_m_s", "tuning_id", "pwv_header", "source_name", "simulated", *(row.name for row in TOLD),
)  # fmt: skip
"""All attributes that a scan is made from, whether the store, the scan or the group has them."""

# --- subscan classes ------------------------------------------------------------------------------------------------

SUBSCAN_CLASSES: Final = {
    "ON": "ON",
    "OTF-ON": "ON",
    "OFF": "OFF",
    "OTF-OFF": "OFF",
    "REF": "OFF",
    "HOT": "HOT",
    "COLD": "COLD",
    "COL": "COLD",
    "SKY": "SKY",
    "ZERO": "ZERO",
}
CHOPPED_PREFIXES: Final = ("SWA", "SWB", "OTFSWA", "OTFSWB")

# --- L1 -------------------------------------------------------------------------------------------------------------

L1_ARRAYS: Final = (
    _row(
        "spectra",
        "C D R A S",
        "float64",
        "K",
        "T_A*: antenna temperature, single sideband, above the atmosphere; NaN where flagged",
    ),
    _row("flags", "C D R A S", "uint16", "", "why a sample is invalid: OR of the flag bits; 0 is good"),
    _row("t_sys", "C R A S", "float64", "K", "system temperature on the T_A* scale at the reference position"),
    _row(
        "quantum",
        "R A S",
        "float64",
        "K",
        "power of two that T_A* is rounded to (setting precision); 0: not",
        ours=True,
    ),
    _row("tau_signal", "C", "float64", "Np", "zenith opacity, signal band"),
    _row(
        "tau_image",
        "C",
        "float64",
        "Np",
        "zenith opacity, image band; NaN for single-sideband receivers, 0 without atmosphere",
    ),
    _row(
        "t_atm_signal",
        "C",
        "float64",
        "K",
        "effective temperature of the atmosphere, signal band, at the PWV and the mean airmass of the OFFs (t_atm=table)",
        ours=True,
    ),
    _row("t_atm_image", "C", "float64", "K", "the same, image band; NaN for single-sideband receivers", ours=True),
    _row("frequency_signal", "C", "float64", "Hz", "signal frequency"),
    _row("frequency_image", "C", "float64", "Hz", "image frequency"),
    _row("gamma", "C R A", "float64", "K", "load temperature difference on the T_A* scale"),
    _row("gain", "C R A", "float64", "1/K", "receiver gain: counts per K at the receiver input", ours=True),
    _row(
        "trec", "C R A", "float64", "K", "receiver noise temperature, double-sideband unless only one band is received"
    ),
    _row("bad_channels", "C R A", "bool", "", "channels that the loads show to be bad"),
    _row("pwv", "R A", "float64", "mm", "water vapour fitted to each pixel alone (pwv_scope per_pixel)"),
    _row("airmass", "S", "float64", "", "airmass used for the transmission"),
    _row("elevation", "S", "float64", "rad", "apparent elevation"),
    _row("mjd", "S", "float64", "d", "time as stored in L0, MJD (UTC)"),
    _row("exptime_on", "S", "float64", "s", "integration time of one ON dump"),
    _row("exptime_ref", "S", "float64", "s", "effective integration time of the reference"),
    _row("on_index", "S", "int32", "", "index of the ON subscan in L0"),
    _row("ref_index", "S ref", "int32", "", "indices of the OFF subscans that make the reference"),
    _row("ref_weight", "S ref", "float64", "", "their weights"),
    _row("off_index", "off", "int32", "", "indices of the OFF subscans in L0", ours=True),
    _row("airmass_off", "off", "float64", "", "airmass of the OFFs; NaN without atmosphere", ours=True),
    _row("otf_lon", "D S|S", "float64", "deg", "reference-beam longitude offset"),
    _row("otf_lat", "D S|S", "float64", "deg", "reference-beam latitude offset"),
    _row("pixel_offset_lon", "R A S|R A", "float64", "deg", "pixel longitude offset"),
    _row("pixel_offset_lat", "R A S|R A", "float64", "deg", "pixel latitude offset"),
    _row("sobsmode", "S", "str", "", "subscan class as in L0"),
    _row("frontend_backends", "S|R A", "str", "", "pixel identifiers as in L0"),
)

L1_COORDINATES: Final = (
    "frequency_signal", "frequency_image", "airmass", "elevation", "mjd", "exptime_on", "exptime_ref", "on_index",
    "otf_lon", "otf_lat", "pixel_offset_lon", "pixel_offset_lat", "sobsmode", "frontend_backends",
)  # fmt: skip


class Flag(IntFlag):
    """Bits of ``flags``. Bits 0 to 7 are the published layout; a set bit always invalidates the sample."""

    BAD_CHANNEL = 1 << 0
    FILL_VALUE = 1 << 1
    SPIKE = 1 << 2
    RFI = 1 << 3
    TSYS_OUTLIER = 1 << 4
    ELEVATION_LOW = 1 << 5
    ML_FLAGGED = 1 << 6
    MANUAL = 1 << 7
    NO_REFERENCE = 1 << 8
    INVALID_COUNT = 1 << 9
    OPAQUE = 1 << 10
    NONFINITE = 1 << 11


FLAG_MEANINGS: Final = {
    Flag.BAD_CHANNEL: "the loads show the channel to be bad",
    Flag.FILL_VALUE: "the ON sample is missing or padding",
    Flag.SPIKE: "reserved for downstream use",
    Flag.RFI: "reserved for downstream use",
    Flag.TSYS_OUTLIER: "reserved for downstream use",
    Flag.ELEVATION_LOW: "reserved for downstream use",
    Flag.ML_FLAGGED: "reserved for downstream use",
    Flag.MANUAL: "reserved for downstream use",
    Flag.NO_REFERENCE: "no valid reference for this channel and pixel",
    Flag.INVALID_COUNT: "the ON count is <= 0 or saturated",
    Flag.OPAQUE: "transmission below t_min",
    Flag.NONFINITE: "any other result that is not finite",
}

ENGINE_FLAGS: Final = (
    Flag.BAD_CHANNEL | Flag.FILL_VALUE | Flag.NO_REFERENCE | Flag.INVALID_COUNT | Flag.OPAQUE | Flag.NONFINITE
)
"""The bits that this engine sets (0x0F03): a value is NaN if and only if one of them is set."""


class ScanFlag(IntFlag):
    """Bits of the scan attribute ``scan_flags``: conditions of the whole scan that invalidate no sample."""

    PWV_AT_BOUND = 1
    PWV_FALLBACK = 2
    LOADS_STALE = 4
    LOAD_SINGLE = 8
    ATM_CLAMPED = 16
    ELEVATION_MISMATCH = 32
    UNKNOWN_SOBSMODE_IGNORED = 64
    T_ATM_DEFAULTED = 128
    FILL_IN_LOADS = 256
