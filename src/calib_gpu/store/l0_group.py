"""Reading one ``source`` or ``calibration`` group against its table in :mod:`calib_gpu.schema`. Counts stay on disk."""

from __future__ import annotations

import functools
import itertools
import math
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from calib_gpu import schema
from calib_gpu.errors import BadShape, BadType, FrequencyMismatch, MissingValue, Unreadable
from calib_gpu.physics.calibration import SampleRule
from calib_gpu.records import CountGroup, Subscan, Tuning
from calib_gpu.store import guard
from calib_gpu.store.chunks import NOTHING_HELD, ChunkedArray
from calib_gpu.store.group_files import GroupFiles
from calib_gpu.store.guard import DEFAULT_LIMITS, Limits
from calib_gpu.store.metadata import GROUP_NODES, NODES, group_attrs, has_array

Arrays = Mapping[str, NDArray[Any]]

MICROSECONDS_PER_DAY: Final = 86_400_000_000
INT32_FILL: Final = -(2**31)
COUNT_DTYPES: Final = ("int32", "uint32", "int64", "int16", "uint16", "float32", "float64")
LATEST_MJD: Final = 1e7
"""Times beyond are no dates; in microseconds they would leave 64 bits."""
PER_SUBSCAN: Final = ("sobsmode", "mjd")
"""Arrays whose values differ from subscan to subscan; of the other ``[S]`` arrays a scalar stands for all."""

DIMENSION_NAMES: Final = {
    "C": ("c", "channel", "channels"),
    "D": ("d", "dump", "dumps"),
    "R": ("r", "receiver", "receivers"),
    "A": ("a", "array", "pixel", "pixels"),
    "S": ("s", "subscan", "subscans"),
}


def subscan_class(text: str) -> str:
    """A sobsmode string as it is compared: without blanks, upper case."""
    return text.strip().upper()


def is_finite(value: Any) -> bool:
    """True for a number of JSON that is one: not a truth value, NaN, infinite, or beyond a float."""
    try:
        return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    except OverflowError:
        return False


def told(value: Any) -> Any:
    """An attribute's value as an error tells it: null by its name in JSON."""
    return "null" if value is None else value


def texts(values: NDArray[Any]) -> list[str]:
    """The strings of an array, flat."""
    return [v.decode() if isinstance(v, bytes) else str(v) for v in values.ravel()]


def table_of(group: str) -> tuple[schema.Array, ...]:
    """The arrays of ``source`` or ``calibration``."""
    return schema.L0_SOURCE if group == "source" else schema.L0_CALIBRATION


def group_files(path: Path, group: str) -> GroupFiles:
    """The small files of a ``source`` or ``calibration`` in folder ``path``."""
    return GroupFiles(path, counts="data_5d", arrays={row.name for row in table_of(group)})


_tuning: Final = functools.lru_cache(256)(Tuning)
_sample_rule: Final = functools.lru_cache(256)(SampleRule)
"""The groups of a night share the few that there are."""


class GroupReader:
    """Reads a group: small arrays checked and converted, counts opened.

    Numbers come as float64 or int64, strings as an object array, all with one of the axis orders of the table.
    """

    def __init__(self, path: Path, name: str, scan_attrs: Mapping[str, Any], limits: Limits = DEFAULT_LIMITS) -> None:
        self.path, self.name, self.limits = path, name, limits
        self.files = group_files(path, name)
        if self.files.of().keys().isdisjoint(GROUP_NODES):
            raise Unreadable("document of the group is missing", array=name, rule="zarr.json (or .zgroup)")
        self.attrs = {**scan_attrs, **group_attrs(path, self.files.of(), limits)}
        self._unchecked: list[str] = []
        self._absent: list[str] = []

    def read(self) -> CountGroup:
        """The group; a :class:`calib_gpu.errors.ScanFailure` names array, value and rule of what is wrong."""
        self._name("source_name")
        if self.attrs.get("pwv_header") is not None:
            self._finite("pwv_header", self.attrs["pwv_header"])
        counts = self._open_counts()
        shape: tuple[int, int, int, int, int] = counts.shape  # type: ignore[assignment]
        sizes = dict(zip(schema.COUNT_AXES, shape, strict=True))
        read = {row.name: self._read(row, sizes) for row in table_of(self.name) if row.name != "data_5d"}
        arrays = {name: values for name, values in read.items() if values is not None}
        rule = self._sample_rule(counts)
        per_dump = self._choice("exptime_kind", "subscan", ("subscan", "dump")) == "dump"
        subscans = self._subscans(arrays, counts, rule, per_dump=per_dump)
        epoch = round(float(arrays["mjd"][0]) * MICROSECONDS_PER_DAY)
        tuning = self._tuning(arrays, shape)
        return CountGroup(
            self.name,
            shape,
            subscans,
            epoch,
            tuning,
            counts,
            rule,
            per_dump,
            self.attrs,
            arrays,
            tuple(self._warnings()),
        )

    def _warnings(self) -> Iterator[str]:
        """What is doubtful in how the arrays are stored."""
        if self._unchecked:
            names = ", ".join(self._unchecked[:3]) + (" and others" if len(self._unchecked) > 3 else "")
            yield f"no checksum in {names}: damage is not seen (--require-checksum refuses such scans)"
        if self._absent:
            yield f"a chunk is absent and taken as the fill value in {', '.join(self._absent)}"

    def _open(self, name: str, *, absent_is_fill: bool) -> ChunkedArray:
        label, held = self._label(name), self.files.of(name)
        if held and held.keys().isdisjoint(NODES):
            raise Unreadable("document of the array is missing", array=label, rule="zarr.json (or .zarray)")
        held = NOTHING_HELD if name == "data_5d" else held
        array = ChunkedArray(f"{self.path}/{name}", label, absent_is_fill=absent_is_fill, held=held, limits=self.limits)
        if not array.has_checksum:
            self._unchecked.append(label)
        return array

    def _label(self, array: str) -> str:
        return sys.intern(f"{self.name}/{array}")

    def _open_counts(self) -> ChunkedArray:
        label = self._label("data_5d")
        if not has_array(self.path / "data_5d"):
            raise MissingValue("required array is missing", array=label)
        counts = self._open("data_5d", absent_is_fill=False)
        if len(counts.shape) != 5 or min(counts.shape) < 1:
            rule = "five axes C, D, R, A, S, none empty"
            raise BadShape("wrong shape", array=label, value=counts.shape, rule=rule)
        if counts.meta.dtype is None or counts.dtype.name not in COUNT_DTYPES:
            raise BadType("wrong type", array=label, value=str(counts.meta.dtype), rule=" or ".join(COUNT_DTYPES))
        _ = counts.layout
        try:
            most = self.limits.max_scan_bytes
            guard.check_size("array", counts.shape, counts.dtype.itemsize, most, "max_scan_bytes")
        except ValueError as error:
            raise BadShape(str(error), array=label) from None
        for found, axis in zip(counts.meta.dims or (), schema.COUNT_AXES, strict=False):
            if found is not None and found.lower() not in DIMENSION_NAMES[axis]:
                rule = "dimension_names C, D, R, A, S"
                raise BadShape("axes in another order", array=label, value=counts.meta.dims, rule=rule)
        return counts

    def _sample_rule(self, counts: ChunkedArray) -> SampleRule:
        """What makes a sample missing or saturated; also decides whether an absent chunk means missing samples."""
        kind, fill = counts.dtype.kind, counts.meta.attrs.get("fill", self.attrs.get("fill"))
        if fill is None and kind == "i":
            fill = INT32_FILL
        if kind == "f":
            fill = None
        elif fill is not None:
            value = self._finite("fill", fill)
            low, high = np.iinfo(counts.dtype).min, np.iinfo(counts.dtype).max
            if value != int(value) or not low <= value <= high:
                rule = f"a whole number of {counts.dtype}, {low} to {high}"
                raise BadType("attribute is no missing value", array=self._label("fill"), value=fill, rule=rule)
            fill = int(fill)
        saturation = self.attrs.get("adc_saturation")
        if saturation is not None and not self._finite("adc_saturation", saturation) > 0.0:
            raise BadType(
                "not a saturation level", array=self._label("adc_saturation"), value=saturation, rule="> 0 counts"
            )
        zarr_fill = counts.meta.fill_value
        counts.absent_is_fill = zarr_fill is not None and bool(
            zarr_fill == fill or (kind == "f" and np.isnan(zarr_fill))
        )
        return _sample_rule(fill, None if saturation is None else float(saturation))

    def _read(self, row: schema.Array, sizes: Mapping[str, int]) -> NDArray[Any] | None:
        label = self._label(row.name)
        if not self.files.of(row.name) and not has_array(self.path / row.name):
            if row.required:
                raise MissingValue("required array is missing", array=label, rule=row.meaning)
            return None
        stored = self._open(row.name, absent_is_fill=row.name != "sobsmode")
        values = stored.values()
        if stored.n_absent:
            self._absent.append(label)
        wanted = [tuple(sizes[axis] for axis in order) for order in row.axes]
        scalar = values.shape == () and ("S",) in row.axes and row.name not in PER_SUBSCAN
        if values.shape not in wanted and not scalar:
            orders = (f"[{','.join(order)}] = {list(shape)}" for order, shape in zip(row.axes, wanted, strict=True))
            raise BadShape("wrong shape", array=label, value=list(values.shape), rule=" or ".join(orders))
        if row.dtype == "str":
            if values.dtype.kind not in "OUST":
                raise BadType("wrong type", array=label, value=str(values.dtype), rule="a text")
            return np.array(texts(values), dtype=object).reshape(values.shape)
        if values.dtype.kind not in "iuf":
            raise BadType("wrong type", array=label, value=str(values.dtype), rule="a number")
        low, high = schema.PLAUSIBLE[row.name]
        beyond = (values < low) | (values > high)
        if beyond.any():
            rule = f"{low:g} to {high:g} {row.unit}".rstrip()
            raise BadType("not a possible value", array=label, value=values[beyond].ravel()[0], rule=rule)
        if row.dtype == "int":
            if values.dtype.kind == "f" and not np.all(values == np.rint(values)):
                raise BadType("not whole numbers", array=label, value=str(values.ravel()[:4]), rule="whole numbers")
            return values.astype(np.int64)
        return values.astype(np.float64)

    def _tuning(self, arrays: Arrays, shape: tuple[int, int, int, int, int]) -> Tuning:
        """Frequencies of the first subscan, after the check that all have the same axis."""
        applied = self.attrs.get("freq_off_applied", True)
        if not isinstance(applied, bool):
            where, rule = self._label("freq_off_applied"), "true or false"
            raise BadType("attribute is not a truth value", array=where, value=told(applied), rule=rule)
        base = self._finite("ref_channel_base", self.attrs.get("ref_channel_base", 0.0))
        offset = arrays["freq_off"] if not applied and "freq_off" in arrays else np.zeros(())
        names = arrays.get("frontend_backends")
        pixels = None if names is None else tuple(names.ravel())
        if names is not None and names.ndim < 2:
            pixels = tuple(sorted(set(names.ravel())))  # [S]: a name a subscan, whose number says nothing
        tuning_id = self._name("tuning_id")
        columns = np.broadcast_arrays(
            np.zeros(shape[4]), arrays["signal_freq"] + offset, arrays["image_freq"] + offset, arrays["freq_res"],
            arrays["ref_channel"] - base,
        )[1:]  # fmt: skip
        tunings = [
            _tuning(s_0, i_0, step, ref, shape[0], None if tuning_id is None else str(tuning_id), pixels)
            for s_0, i_0, step, ref in dict.fromkeys(zip(*(column.tolist() for column in columns), strict=True))
        ]
        ends = np.array([t.ends() for t in tunings])
        if not np.all(np.isfinite(ends)):
            names_used = ("signal_freq", "image_freq", "freq_res", "ref_channel", *(() if applied else ("freq_off",)))
            bad = (n for n in names_used if n in arrays and not np.all(np.isfinite(arrays[n])))
            worst = next(bad, "signal_freq")
            raise FrequencyMismatch(
                "not a number", array=self._label(worst), value="nan", rule="frequencies must be finite"
            )
        spread = float(np.ptp(ends, axis=0).max())
        if spread > 0.5 * abs(tunings[0].spacing):
            raise FrequencyMismatch(
                "more than one frequency axis in a scan", array=self._label("signal_freq"), value=f"{spread:g} Hz spread",
                rule="at most half a channel",
            )  # fmt: skip
        return tunings[0]

    def _subscans(
        self, arrays: Arrays, counts: ChunkedArray, rule: SampleRule, *, per_dump: bool
    ) -> tuple[Subscan, ...]:
        n = counts.shape[4]
        mjd = arrays["mjd"]
        known = np.abs(mjd) <= LATEST_MJD  # false for NaN
        if not np.all(known):
            bad = int(np.argmin(known))
            raise MissingValue(
                "time is not a number, or out of range", array=self._label("mjd"), value=f"subscan {bad}: {mjd[bad]}",
                rule=f"every subscan has a time, at most {LATEST_MJD:.0f} days from MJD 0",
            )  # fmt: skip
        nothing = np.array(np.nan)
        exptime, elevation = (np.broadcast_to(arrays.get(name, nothing), (n,)) for name in ("exptime", "elevation"))
        n_dump = np.broadcast_to(arrays["n_dump"], (n,)) if "n_dump" in arrays else None
        start = self._choice("time_ref", "mid", ("mid", "start")) == "start"
        needed = start and per_dump and n_dump is None
        counted = count_dumps(counts, rule) if needed else []
        out = []
        for s in range(n):
            dumps = None if n_dump is None else int(n_dump[s])
            if dumps is not None and not 0 <= dumps <= counts.shape[1]:
                rule_text = f"0 to {counts.shape[1]}"
                raise BadShape("impossible number of dumps", array=self._label("n_dump"), value=dumps, rule=rule_text)
            stored = (float(mjd[s]) - float(mjd[0])) * MICROSECONDS_PER_DAY
            half = 0.0
            if start:
                if not np.isfinite(exptime[s]):
                    rule_text = "mid-time = mjd + exptime / 2"
                    raise MissingValue("needed with time_ref = start", array=self._label("exptime"), rule=rule_text)
                half = 0.5e6 * float(exptime[s])
                if per_dump:
                    half *= dumps if dumps is not None else counted[s]
            kind = schema.SUBSCAN_CLASSES.get(subscan_class(str(arrays["sobsmode"][s])), "")
            mid, begin = int(np.rint(stored + half)), int(np.rint(stored))
            out.append(Subscan(s, kind, mid, begin, float(mjd[s]), float(elevation[s]), float(exptime[s]), dumps))
        return tuple(out)

    def _choice(self, name: str, default: str, choices: tuple[str, ...]) -> str:
        value = self.attrs.get(name, default)
        if value not in choices:
            where, rule = self._label(name), " or ".join(choices)
            raise BadType("attribute not understood", array=where, value=told(value), rule=rule)
        return str(value)

    def _name(self, name: str) -> Any:
        """A text (or number) of the attributes; None without it."""
        value = self.attrs.get(name)
        if isinstance(value, list | dict | bool):
            raise BadType("attribute is no name", array=self._label(name), value=value, rule="a text or a number")
        return value

    def _finite(self, name: str, value: Any) -> float:
        if not is_finite(value):
            raise BadType(
                "attribute is not a number", array=self._label(name), value=told(value), rule="a finite number"
            )
        return float(value)


def count_dumps(counts: ChunkedArray, rule: SampleRule) -> list[int]:
    """Number of dumps of each subscan that hold any valid sample; every chunk is decoded once."""
    _, n_d, *_, n_s = counts.shape
    found = np.zeros((n_s, n_d), dtype=bool)
    steps = (range(0, n, k) for n, k in zip(counts.shape, counts.read_chunk, strict=True))
    for origin in itertools.product(*steps):
        region = tuple(slice(o, min(o + k, n)) for o, k, n in zip(origin, counts.read_chunk, counts.shape, strict=True))
        chunk = np.empty([s.stop - s.start for s in region], counts.dtype)
        counts.read(region, chunk)
        valid = rule.valid(np.moveaxis(chunk, 1, -1), chunk.shape[1])  # [C,R,A,S,D]
        found[region[4], region[1]] |= valid.any(axis=(0, 1, 2))
    return [int(n) for n in np.count_nonzero(found, axis=1)]
