"""The frozen records that the stages hand to each other.

Axes are named in brackets: C channel, D dump, R receiver, A pixel, S subscan, O an OFF subscan that is used.
Arrays ``[C, R, A]`` are held pixel by pixel in memory (:func:`pixel_major`), so that the channels of one pixel are
contiguous; the axis order that code sees is always the documented one.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import DTypeLike, NDArray

from calib_gpu.physics.calibration import SampleRule
from calib_gpu.physics.dry_scale import DryScale
from calib_gpu.physics.frequency import Frame
from calib_gpu.physics.loads import LoadPowers, SidebandGains
from calib_gpu.physics.sky import Sky

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Region = tuple[slice, ...]


def pixel_major(shape: tuple[int, ...], dtype: DTypeLike = np.float64) -> NDArray[Any]:
    """Zeros of ``[C, R, A, ...]`` whose memory order is ``[R, A, ..., C]``."""
    c, r, a, *rest = shape
    stored = np.zeros((r, a, *rest, c), dtype=dtype)
    return np.moveaxis(stored, -1, 0)


@dataclass(frozen=True, order=True, slots=True)
class ScanId:
    """A scan group, or one band of it; ``path`` is that inside the store: ``scan_025650`` or ``scan_025650/band_LFA``."""

    number: int
    band: str = ""
    path: str = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        path = f"scan_{self.number:06d}" + (f"/{self.band}" if self.band else "")
        object.__setattr__(self, "path", sys.intern(path))  # all who keep it keep the same text

    def __str__(self) -> str:
        return self.path


@dataclass(frozen=True, slots=True)
class Subscan:
    """One subscan: class (ON OFF HOT COLD SKY ZERO, or empty if unknown) and its scalars.

    ``time_us`` is the mid-time and ``stored_us`` the time as stored, both integer microseconds after the group's first
    mjd; ``n_dump`` is None where the store does not tell.
    """

    index: int
    kind: str
    time_us: int
    stored_us: int
    mjd: float
    elevation: float
    exptime: float
    n_dump: int | None


@dataclass(frozen=True, slots=True)
class Tuning:
    """What makes loads and sky comparable: frequencies at the reference channel, spacing, tuning_id, pixels.

    ``pixels`` are the identifiers ``[R, A]`` in order, or the different ones of ``[S]``; None where the store has none.
    """

    signal_0: float
    image_0: float
    spacing: float
    ref_channel: float
    n_channel: int
    tuning_id: str | None
    pixels: tuple[str, ...] | None

    def ends(self) -> tuple[float, ...]:
        """Signal and image frequency of the first and the last channel, Hz."""
        first, last = -self.ref_channel * self.spacing, (self.n_channel - 1 - self.ref_channel) * self.spacing
        return self.signal_0 + first, self.signal_0 + last, self.image_0 - first, self.image_0 - last

    def same_as(self, other: Tuning) -> bool:
        """Rule of formats 7.3: tuning_id alone if both have one, else frequencies (of both band ends) and pixel names."""
        if self.tuning_id is not None and other.tuning_id is not None:
            return self.tuning_id == other.tuning_id
        step = min(abs(self.spacing), abs(other.spacing))
        close = all(abs(a - b) < step for a, b in zip(self.ends(), other.ends(), strict=True))
        return close and (self.pixels is None or other.pixels is None or self.pixels == other.pixels)


class Counts(Protocol):
    """Counts that are read region by region: an array of a store, or one that was laid out anew."""

    @property
    def shape(self) -> tuple[int, ...]:
        """(C, D, R, A, S)."""
        ...

    @property
    def dtype(self) -> np.dtype[Any]:
        """As stored, in native byte order."""
        ...

    @property
    def read_chunk(self) -> tuple[int, ...]:
        """What one decode gives."""
        ...

    def read(self, region: Region, out: NDArray[Any]) -> int:
        """Read a region into ``out``, which has its shape and any strides; the bytes read from disk."""
        ...

    def close(self) -> None:
        """Give back what is held beside the store."""
        ...


@dataclass(frozen=True, slots=True)
class CountGroup:
    """A ``source/`` or ``calibration/`` group: its subscans and a handle to the counts, which stay on disk.

    ``shape`` is (C, D, R, A, S); ``epoch_us`` is the group's first mjd in integer microseconds since MJD 0;
    ``arrays`` holds the small arrays of the group, ``attrs`` the attributes of group and scan, ``warnings`` what is
    doubtful in how they are stored.
    """

    name: str
    shape: tuple[int, int, int, int, int]
    subscans: tuple[Subscan, ...]
    epoch_us: int
    tuning: Tuning
    counts: Counts
    rule: SampleRule
    per_dump_exptime: bool
    attrs: Mapping[str, Any]
    arrays: Mapping[str, NDArray[Any]]
    warnings: tuple[str, ...] = ()

    def of_kind(self, kind: str) -> tuple[Subscan, ...]:
        """Subscans of one class, in store order."""
        return tuple(s for s in self.subscans if s.kind == kind)

    def absolute_us(self, subscans: tuple[Subscan, ...]) -> float:
        """Mean mid-time of some subscans, microseconds since MJD 0."""
        return self.epoch_us + float(np.mean([s.time_us for s in subscans]))


@dataclass(frozen=True)
class Scan:
    """A science scan: metadata; its ON counts stay on disk. ``told`` are the attributes of :data:`schema.TOLD` in L0."""

    id: ScanId
    source: CountGroup
    signal: Floats
    image: Floats
    topocentric_signal: Floats
    topocentric_image: Floats
    frame: Frame
    told: Mapping[str, Any]
    warnings: tuple[str, ...] = ()
    scan_flags: int = 0


@dataclass(frozen=True)
class DumpStats:
    """Sums over the dumps of one subscan: ``total`` [C,R,A] counts and ``valid`` [C,R,A] samples in it.

    ``first`` [C,R,A] is the first dump in which the pixel has any valid channel (NaN where it has a hole);
    ``band`` [D,R,A] the mean over valid channels of each dump; both only where asked for.
    ``dump_valid`` and ``dump_present`` [D] tell which dumps hold any valid or present sample,
    ``dump_missing`` [D] how many samples are missing.
    """

    total: Floats
    valid: NDArray[np.int64]
    first: Floats | None
    band: Floats | None
    dump_valid: Bools
    dump_present: Bools
    dump_missing: NDArray[np.int64]

    def mean(self) -> Floats:
        """NaN-aware mean over dumps [C,R,A]; NaN where no sample is valid."""
        with np.errstate(invalid="ignore", divide="ignore"):
            return self.total / self.valid


@dataclass(frozen=True)
class LoadSet:
    """The averaged loads of one ``calibration/`` group; ``hot``, ``cold``, ``zero`` in counts [C,R,A].

    ``time_us`` is the mean mid-time of its HOT and COLD subscans since MJD 0; ``t_hot``, ``t_cold`` physical, K.
    ``override`` are load powers that the store gives per channel. ``hot_band`` [dumps,R,A] is the band mean of
    each HOT dump, ``dump_time`` its integration time in s; ``sky`` [C,R,A] the mean of its SKY subscans.
    """

    scan: ScanId
    time_us: float
    hot: Floats
    cold: Floats
    zero: Floats | None
    sky: Floats | None
    t_hot: float
    t_cold: float
    override: LoadPowers | None
    hot_band: Floats
    dump_time: float
    has_missing: bool


@dataclass(frozen=True)
class LoadCalibration:
    """Calibration of all pixels [C,R,A] at one time: G (counts/K), gamma (K), T_rec,DSB (K, Planck), bad channels."""

    hot: Floats
    cold: Floats
    gain: Floats
    gamma: Floats
    trec: Floats
    bad: Bools
    zero: Floats | float

    def zero_of(self, r: int, a: int) -> Floats | float:
        """Zero level of a pixel: a number, or ``[C]`` counts."""
        return self.zero[:, r, a] if isinstance(self.zero, np.ndarray) else self.zero


@dataclass(frozen=True)
class Loads:
    """The load sets that serve a scan (one, or two to interpolate between), and the one before them."""

    sets: tuple[LoadSet, ...]
    age_s: float
    previous: LoadSet | None = None

    def weight(self, time_us: float) -> float:
        """Weight of the second set at an absolute time, clamped to the interval between the sets."""
        if len(self.sets) == 1:
            return 0.0
        first, second = (s.time_us for s in self.sets)
        return float(np.clip((time_us - first) / (second - first), 0.0, 1.0))


@dataclass(frozen=True)
class Receiver:
    """Telescope and receiver parameters after all layers of settings were consulted, with their origin."""

    gains: SidebandGains
    eta_f: float
    eta_h: float
    eta_c: float
    values: Mapping[str, Any]
    origin: Mapping[str, str]
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class OffSpectra:
    """Averaged OFF subscans: ``mean`` and ``reference`` [C,R,A,O] in counts, NaN where no dump is valid.

    ``reference`` is what an ON subtracts: the mean itself (OTF), or the first valid dump (total power).
    ``index`` [O] are subscan numbers, ``exposure`` and ``mean_exposure`` [O] the integration times of reference and
    mean in s.
    """

    index: tuple[int, ...]
    mean: Floats
    reference: Floats
    exposure: tuple[float, ...]
    mean_exposure: tuple[float, ...]


@dataclass(frozen=True)
class Atmosphere:
    """PWV and what follows from it: zenith opacities [C] in Np; ``pwv`` and its error None where there is none.

    ``sky`` is the fitted sky on channels, None without a fit; ``t_eff`` [C] in K that of a layered one, signal and image.
    """

    pwv: float | None
    pwv_error: float | None
    status: str
    source: str
    tau_signal: Floats
    tau_image: Floats
    rms_k: float | None = None
    chi2_reduced: float | None = None
    sky: Sky | None = None
    used: Mapping[str, Any] = field(default_factory=dict)
    pixel_pwv: Floats | None = None
    off_pwv: tuple[float | None, ...] = ()
    dry: DryScale = field(default_factory=DryScale)
    dry_scale_suggested: float | None = None
    t_eff: tuple[Floats, Floats] | None = None
    table: str = "none"
    scan_flags: int = 0
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Pairing:
    """Which OFF serves which ON: subscan numbers ``on`` [S_on], ``ref`` [S_on,2], weights [S_on,2]."""

    on: NDArray[np.int32]
    ref: NDArray[np.int32]
    weight: Floats


@dataclass(frozen=True)
class Tile:
    """What one read decodes and one write encodes: a block of pixels of one ON subscan.

    ``on`` counts ON subscans, ``subscan`` is the number in L0; ``r`` and ``a`` are the pixels.
    """

    on: int
    subscan: int
    r: slice
    a: slice
