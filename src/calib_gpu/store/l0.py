"""The L0 store: which scans there are, and the metadata and small arrays of a group. Counts stay on disk."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from calib_gpu import schema
from calib_gpu.errors import BadShape, BadType, FrequencyMismatch, MissingValue, StoreUnusable, Unreadable
from calib_gpu.physics.calibration import SampleRule
from calib_gpu.records import CountGroup, ScanId, Subscan, Tuning
from calib_gpu.store.chunks import ChunkedArray
from calib_gpu.store.metadata import group_attrs, node_kind

SCAN_NAME: Final = re.compile(r"scan_(\d{6,9})")
BAND_NAME: Final = re.compile(r"band_[A-Za-z0-9._-]{1,60}")
MICROSECONDS_PER_DAY: Final = 86_400_000_000
INT32_FILL: Final = -(2**31)
PER_SUBSCAN: Final = ("sobsmode", "mjd")
"""Arrays whose values differ from subscan to subscan; of the other ``[S]`` arrays a scalar stands for all."""

_DIMENSION_NAMES: Final = {
    "C": ("c", "channel", "channels"),
    "D": ("d", "dump", "dumps"),
    "R": ("r", "receiver", "receivers"),
    "A": ("a", "array", "pixel", "pixels"),
    "S": ("s", "subscan", "subscans"),
}


class L0Store:
    """An L0 session store, opened for reading; nothing below ``path`` is ever written.

    Raises
    ------
    StoreUnusable
        ``path`` is not a Zarr group.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        if not self.path.is_dir():
            raise StoreUnusable("no such directory", array=str(path), fix="give the path of an L0 Zarr store")
        try:
            kind = node_kind(self.path)
            self.attrs = group_attrs(self.path)
        except Unreadable as error:
            raise StoreUnusable(str(error), fix="check the store's zarr.json") from None
        if kind != "group":
            raise StoreUnusable(
                "not a Zarr group",
                array=str(path),
                rule="zarr.json (or .zgroup) of a group at the top",
                fix="is this the right directory?",
            )

    def scan_ids(self) -> list[ScanId]:
        """All scan groups and bands, in the order of their numbers; calibration-only ones too."""
        ids: list[ScanId] = []
        for entry in sorted(os.scandir(self.path), key=lambda e: e.name):
            match = SCAN_NAME.fullmatch(entry.name)
            if not match or entry.name != f"scan_{int(match[1]):06d}" or not entry.is_dir():
                continue
            bands = sorted(
                b.name
                for b in os.scandir(entry.path)
                if BAND_NAME.fullmatch(b.name) and b.is_dir() and _is_group(Path(b.path))
            )
            ids += [ScanId(int(match[1]), band) for band in bands] or [ScanId(int(match[1]))]
        return sorted(ids)

    def has(self, scan: ScanId, group: str) -> bool:
        """True if the scan has a ``source`` or ``calibration`` group."""
        return _is_group(self.path / scan.path / group)

    def scan_attrs(self, scan: ScanId) -> dict[str, Any]:
        """Attributes of the store, those of the scan over them, those of the band over these."""
        attrs = {**self.attrs, **group_attrs(self.path / f"scan_{scan.number:06d}")}
        return attrs | group_attrs(self.path / scan.path) if scan.band else attrs

    def group(self, scan: ScanId, name: str) -> CountGroup:
        """Metadata of ``source`` or ``calibration``: every small array is read, the counts are opened."""
        table = schema.L0_SOURCE if name == "source" else schema.L0_CALIBRATION
        return _GroupReader(self.path / scan.path / name, name, table, self.scan_attrs(scan)).read()

    def subscan_classes(self, scan: ScanId, group: str) -> list[str] | None:
        """The sobsmode strings of ``source`` or ``calibration``, cleaned; None if the array is missing.

        Cheap: for telling science scans.
        """
        array = self.path / scan.path / group / "sobsmode"
        if node_kind(array) != "array":
            return None
        return _clean(ChunkedArray(array, f"{group}/sobsmode", absent_is_fill=True).values())

    def input_digest(self, scan: str, group: str) -> str:
        """sha256 over a group's metadata, its small arrays, and name and size of every file of its counts.

        It sees any change of metadata, times or layout; the bytes of the counts are not read for it.
        """
        digest = hashlib.sha256()
        base = self.path / scan
        for path in _files(base / group):
            small = "data_5d" not in path.parts or path.name in ("zarr.json", ".zarray", ".zattrs")
            digest.update(f"{path.relative_to(base)} {path.stat().st_size}\n".encode())
            if small:
                digest.update(path.read_bytes())
        return digest.hexdigest()


def _is_group(path: Path) -> bool:
    try:
        return node_kind(path) == "group"
    except Unreadable:
        return True  # let the reader name the damage


def tree_digest(folder: Path) -> str:
    """sha256 over the names and bytes of all files of a small store, such as an opacity table."""
    digest = hashlib.sha256()
    for path in _files(folder):
        digest.update(f"{path.relative_to(folder)} {path.stat().st_size}\n".encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _files(folder: Path) -> Iterator[Path]:
    for root, dirs, names in os.walk(folder):
        dirs.sort()
        yield from (Path(root) / name for name in sorted(names))


def _clean(values: NDArray[Any]) -> list[str]:
    return [(v.decode() if isinstance(v, bytes) else str(v)).strip().upper() for v in values.ravel()]


class _GroupReader:
    """Reads one group against its table in :mod:`calib_gpu.schema`."""

    def __init__(self, path: Path, name: str, table: tuple[schema.Array, ...], scan_attrs: Mapping[str, Any]) -> None:
        self.path, self.name, self.table = path, name, table
        self.attrs = {**scan_attrs, **group_attrs(path)}

    def read(self) -> CountGroup:
        rows = {row.name: row for row in self.table}
        counts = self._open_counts()
        shape: tuple[int, int, int, int, int] = counts.shape  # type: ignore[assignment]
        sizes = dict(zip(schema.COUNT_AXES, shape, strict=True))
        arrays = {name: self._read(row, sizes) for name, row in rows.items() if name != "data_5d"}
        present = {name: values for name, values in arrays.items() if values is not None}
        tuning = self._tuning(present)
        rule = self._sample_rule(counts)
        subscans, epoch = self._subscans(present, counts, rule, shape)
        per_dump = self._choice("exptime_kind", "subscan", ("subscan", "dump")) == "dump"
        return CountGroup(self.name, shape, subscans, epoch, tuning, counts, rule, per_dump, self.attrs, present)

    def _label(self, array: str) -> str:
        return f"{self.name}/{array}"

    def _open_counts(self) -> ChunkedArray:
        label = self._label("data_5d")
        if node_kind(self.path / "data_5d") != "array":
            raise MissingValue("required array is missing", array=label)
        counts = ChunkedArray(self.path / "data_5d", label, absent_is_fill=False)
        if len(counts.shape) != 5 or min(counts.shape) < 1:
            raise BadShape("wrong shape", array=label, value=counts.shape, rule="five axes C, D, R, A, S, none empty")
        if counts.meta.dtype is None or counts.dtype.name not in (
            "int32",
            "uint32",
            "int64",
            "float32",
            "float64",
            "int16",
            "uint16",
        ):
            raise BadType(
                "wrong type",
                array=label,
                value=str(counts.meta.dtype),
                rule="int16/32/64, uint16/32, float32 or float64",
            )
        if counts.meta.dims is not None:
            for found, axis in zip(counts.meta.dims, schema.COUNT_AXES, strict=True):
                if found is not None and found.lower() not in _DIMENSION_NAMES[axis]:
                    raise BadShape(
                        "axes in another order",
                        array=label,
                        value=counts.meta.dims,
                        rule="dimension_names C, D, R, A, S",
                    )
        return counts

    def _sample_rule(self, counts: ChunkedArray) -> SampleRule:
        kind, fill = counts.dtype.kind, counts.meta.attrs.get("fill", self.attrs.get("fill"))
        if fill is None and kind == "i":
            fill = INT32_FILL
        saturation = self.attrs.get("adc_saturation")
        for name, value in (("fill", fill), ("adc_saturation", saturation)):
            if value is not None and (isinstance(value, bool) or not isinstance(value, int | float)):
                raise BadType("attribute is not a number", array=self._label(name), value=value)
        rule = SampleRule(
            None if kind == "f" or fill is None else int(fill), None if saturation is None else float(saturation)
        )
        zarr_fill = counts.meta.fill_value
        is_missing = bool(zarr_fill is not None and (zarr_fill == rule.fill or (kind == "f" and np.isnan(zarr_fill))))
        counts.absent_is_fill = is_missing
        return rule

    def _read(self, row: schema.Array, sizes: Mapping[str, int]) -> NDArray[Any] | None:
        label = self._label(row.name)
        if node_kind(self.path / row.name) != "array":
            if row.required:
                raise MissingValue("required array is missing", array=label, rule=row.meaning)
            return None
        values = ChunkedArray(self.path / row.name, label, absent_is_fill=True).values()
        wanted = [tuple(sizes[axis] for axis in order) for order in row.axes]
        scalar = values.shape == () and ("S",) in row.axes and row.name not in PER_SUBSCAN
        if values.shape not in wanted and not scalar:
            rule = " or ".join(
                f"[{','.join(order)}] = {list(shape)}" for order, shape in zip(row.axes, wanted, strict=True)
            )
            raise BadShape("wrong shape", array=label, value=list(values.shape), rule=rule)
        if row.dtype == "str":
            if values.dtype.kind not in "OUST":
                raise BadType("not strings", array=label, value=str(values.dtype))
            return np.array(_clean(values), dtype=object).reshape(values.shape)
        if values.dtype.kind not in ("iu" if row.dtype == "int" else "iuf"):
            raise BadType(
                "wrong type", array=label, value=str(values.dtype), rule="integer" if row.dtype == "int" else "a number"
            )
        return values.astype(np.int64 if row.dtype == "int" else np.float64)

    def _tuning(self, arrays: Mapping[str, NDArray[Any]]) -> Tuning:
        first = {n: float(np.ravel(arrays[n])[0]) for n in ("signal_freq", "image_freq", "freq_res", "ref_channel")}
        step = abs(first["freq_res"])
        for name in ("signal_freq", "image_freq"):
            spread = float(np.ptp(arrays[name])) if arrays[name].size else 0.0
            if spread > 0.5 * step:
                raise FrequencyMismatch(
                    "more than one frequency in a scan",
                    array=self._label(name),
                    value=f"{spread:g} Hz spread",
                    rule="at most half a channel",
                )
        applied = self.attrs.get("freq_off_applied", True)
        offset = float(np.ravel(arrays["freq_off"])[0]) if applied is False and "freq_off" in arrays else 0.0
        base = self._number("ref_channel_base", 0.0)
        names = arrays.get("frontend_backends")
        tuning_id = self.attrs.get("tuning_id")
        return Tuning(
            first["signal_freq"] + offset, first["image_freq"] + offset, first["freq_res"], first["ref_channel"] - base,
            None if tuning_id is None else str(tuning_id), None if names is None else tuple(names.ravel()),
        )  # fmt: skip

    def _subscans(
        self,
        arrays: Mapping[str, NDArray[Any]],
        counts: ChunkedArray,
        rule: SampleRule,
        shape: tuple[int, int, int, int, int],
    ) -> tuple[tuple[Subscan, ...], int]:
        n_dump_max, n = shape[1], shape[4]
        mjd = np.broadcast_to(arrays["mjd"], (n,))
        if not np.all(np.isfinite(mjd)):
            raise MissingValue(
                "time is not a number",
                array=self._label("mjd"),
                value=f"subscan {int(np.argmin(np.isfinite(mjd)))}",
                rule="every subscan has a time",
            )
        exptime, elevation = (np.broadcast_to(arrays.get(k, np.array(np.nan)), (n,)) for k in ("exptime", "elevation"))
        n_dump = arrays.get("n_dump")
        start = self._choice("time_ref", "mid", ("mid", "start")) == "start"
        per_dump = self._choice("exptime_kind", "subscan", ("subscan", "dump")) == "dump"
        epoch = round(float(mjd[0]) * MICROSECONDS_PER_DAY)
        out = []
        for s in range(n):
            dumps = None if n_dump is None else int(np.broadcast_to(n_dump, (n,))[s])
            if dumps is not None and not 0 <= dumps <= n_dump_max:
                raise BadShape(
                    "impossible number of dumps", array=self._label("n_dump"), value=dumps, rule=f"0 to {n_dump_max}"
                )
            stored = (float(mjd[s]) - float(mjd[0])) * MICROSECONDS_PER_DAY
            half = 0.0
            if start:
                if not np.isfinite(exptime[s]):
                    raise MissingValue(
                        "needed with time_ref = start",
                        array=self._label("exptime"),
                        rule="mid-time = mjd + exptime / 2",
                    )
                half = 0.5e6 * float(exptime[s])
                if per_dump:
                    half *= dumps if dumps is not None else count_dumps(counts, rule, s)
            kind = schema.SUBSCAN_CLASSES.get(str(arrays["sobsmode"][s]), "")
            out.append(
                Subscan(
                    s,
                    kind,
                    int(np.rint(stored + half)),
                    int(np.rint(stored)),
                    float(mjd[s]),
                    float(elevation[s]),
                    float(exptime[s]),
                    dumps,
                )
            )
        return tuple(out), epoch

    def _choice(self, name: str, default: str, choices: tuple[str, ...]) -> str:
        value = self.attrs.get(name, default)
        if value not in choices:
            raise BadType("attribute not understood", array=self._label(name), value=value, rule=" or ".join(choices))
        return str(value)

    def _number(self, name: str, default: float) -> float:
        value = self.attrs.get(name, default)
        if isinstance(value, bool) or not isinstance(value, int | float) or not np.isfinite(value):
            raise BadType("attribute is not a number", array=self._label(name), value=value)
        return float(value)


def count_dumps(counts: ChunkedArray, rule: SampleRule, subscan: int) -> int:
    """Number of dumps of a subscan that hold any valid sample; reads it pixel by pixel."""
    c, d, n_r, n_a, _ = counts.shape
    found = np.zeros(d, dtype=bool)
    read = _pixel_reader(counts, c, d)
    for r in range(n_r):
        for a in range(n_a):
            found |= rule.valid(read(r, a, subscan), d).any(axis=0)
    return int(np.count_nonzero(found))


def _pixel_reader(counts: ChunkedArray, c: int, d: int) -> Callable[[int, int, int], NDArray[Any]]:
    buffer = np.empty((c, d), counts.dtype)

    def read(r: int, a: int, s: int) -> NDArray[Any]:
        region = (slice(0, c), slice(0, d), slice(r, r + 1), slice(a, a + 1), slice(s, s + 1))
        counts.read(region, buffer[:, :, None, None, None])
        return buffer

    return read
