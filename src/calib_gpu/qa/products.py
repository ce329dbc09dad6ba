"""Reading one scan of L1 for people: its arrays pixel by pixel, its attributes, and the failures of a store.

Nothing here holds a scan in memory: spectra come in blocks of a few dumps of one pixel.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calib_gpu import schema
from calib_gpu.errors import CalibError, MissingValue, StoreUnusable
from calib_gpu.records import Floats, ScanId
from calib_gpu.store.chunks import ChunkedArray
from calib_gpu.store.metadata import group_attrs, has_array

NEEDED = ("spectra", "t_sys", "trec", "bad_channels", "frequency_signal", "mjd")


@dataclass(frozen=True)
class ScanProducts:
    """One scan (or band) of L1, opened for reading; ``arrays`` holds those that the scan has."""

    scan: ScanId
    attrs: Mapping[str, Any]
    arrays: Mapping[str, ChunkedArray]

    @property
    def shape(self) -> tuple[int, int, int, int, int]:
        """(C, D, R, A, S), S being ON subscans."""
        c, d, r, a, s = self.arrays["spectra"].shape
        return c, d, r, a, s

    @property
    def pixels(self) -> list[tuple[int, int]]:
        """All (r, a), in store order."""
        return list(np.ndindex(self.shape[2:4]))

    @property
    def spacing(self) -> float:
        """Channel spacing of the signal axis, Hz, signed; NaN with one channel."""
        axis = self.whole("frequency_signal")
        return float(axis[-1] - axis[0]) / (axis.size - 1) if axis.size > 1 else float("nan")

    @property
    def corrected(self) -> bool:
        """Whether the spectra are corrected for the atmosphere."""
        return self.attrs.get("transmission_corrected") is not False

    @property
    def scale(self) -> str:
        """The temperature scale of the spectra, for labels: T_A*, or T_A' where they are not corrected for the atmosphere."""
        return "T_A*" if self.corrected else "T_A'"

    def has(self, name: str) -> bool:
        """Whether the scan has this array."""
        return name in self.arrays

    def whole(self, name: str) -> NDArray[Any]:
        """A small array, whole."""
        return self.arrays[name].values()

    def pixel(self, name: str, r: int, a: int) -> NDArray[Any]:
        """One pixel of ``[C, R, A]`` or ``[C, R, A, S]``: ``[C]`` or ``[C, S]``."""
        array = self.arrays[name]
        region = tuple(slice(0, n) for n in array.shape)
        region = (region[0], slice(r, r + 1), slice(a, a + 1), *region[3:])
        out = np.empty(tuple(s.stop - s.start for s in region), array.dtype)
        array.read(region, out)
        return out[:, 0, 0]

    def blocks(self, r: int, a: int) -> Iterator[tuple[int, int, NDArray[Any]]]:
        """The spectra of a pixel: ON subscan, first dump, and ``[C, n]`` in K; the block is overwritten by the next."""
        array, (n_c, n_d, _, _, n_on) = self.arrays["spectra"], self.shape
        step = min(array.read_chunk[1], n_d)
        buffer = np.empty((n_c, step), array.dtype)
        for s in range(n_on):
            for first in range(0, n_d, step):
                last = min(first + step, n_d)
                part = buffer if last - first == step else buffer[:, : last - first]
                region = (slice(0, n_c), slice(first, last), slice(r, r + 1), slice(a, a + 1), slice(s, s + 1))
                array.read(region, part[:, :, None, None, None])
                yield s, first, part

    def metric(self, name: str) -> NDArray[np.float64] | None:
        """A QA metric as numbers, null as NaN; None if it was not computed or is not a number."""
        value = self.attrs.get("qa", {}).get(name)
        if value is None:
            return None
        try:
            return np.asarray(value, dtype=np.float64)
        except (TypeError, ValueError):
            return None

    def setting(self, name: str, otherwise: float) -> float:
        """A numeric setting that the scan was calibrated with."""
        try:
            return float(json.loads(self.attrs["settings"])[name])
        except (KeyError, TypeError, ValueError):
            return otherwise

    def pixel_names(self) -> list[str]:
        """``R0 A3``, followed by the identifier where the store has one for each pixel."""
        names = [f"R{r} A{a}" for r, a in self.pixels]
        if not self.has("frontend_backends"):
            return names
        stored = self.whole("frontend_backends")
        if stored.shape != self.shape[2:4]:
            return names
        return [f"{name} {stored[pixel]}" for name, pixel in zip(names, self.pixels, strict=True)]

    def positions(self, r: int, a: int) -> tuple[Floats, Floats] | None:
        """Offsets on the sky of every ON spectrum of a pixel, deg: longitude and latitude ``[D, S]``; None if not stored."""
        if not (self.has("otf_lon") and self.has("otf_lat")):
            return None
        out = []
        for axis in ("lon", "lat"):
            beam = np.broadcast_to(self.whole(f"otf_{axis}"), (self.shape[1], self.shape[4])).astype(np.float64)
            if self.has(f"pixel_offset_{axis}"):
                offset = self.whole(f"pixel_offset_{axis}")[r, a]
                beam = beam + offset  # [S], or one number
            out.append(beam)
        return out[0], out[1]


def open_products(l1: Path, scan: ScanId) -> ScanProducts:
    """Open a scan of L1.

    Raises
    ------
    MissingValue, Unreadable
        An array that every scan has is absent, or a document is damaged.
    """
    folder = l1 / scan.path
    arrays = {
        row.name: ChunkedArray(folder / row.name, row.name, absent_is_fill=False)
        for row in schema.L1_ARRAYS
        if has_array(folder / row.name)
    }
    for name in NEEDED:
        if name not in arrays:
            raise MissingValue(
                "array is absent", array=name, rule="in every scan of L1", fix="calibrate the scan again"
            ).at(str(scan))
    return ScanProducts(scan, group_attrs(folder), arrays)


def choose(scans: list[ScanId], numbers: Collection[int], l1: Path, known: Collection[int | None] = ()) -> list[ScanId]:
    """The scans of these numbers; one that is neither there nor ``known`` otherwise is a :class:`StoreUnusable`."""
    missing = sorted(set(numbers) - {scan.number for scan in scans} - set(known))
    if missing:
        listed = ", ".join(map(str, missing[:10]))
        names = {ScanId(number).path for number in missing}
        for failure in failures(l1):
            if failure["scan"].partition("/")[0] in names:
                raise StoreUnusable("not calibrated", array=str(l1), value=listed, fix=failure["message"])
        raise StoreUnusable("no such scan", array=str(l1), value=listed, fix=f"calib-gpu inspect {l1} lists the scans")
    return [scan for scan in scans if scan.number in set(numbers)]


def failures(l1: Path) -> list[dict[str, str]]:
    """Entries of ``failures.json`` (scan, stage, error, message), as text; an entry that tells a damage if it is damaged."""
    path = l1 / "failures.json"
    if not path.exists():
        return []
    try:
        found = json.loads(path.read_bytes())
        return [{k: str(f.get(k, "")) for k in ("scan", "stage", "error", "message")} for f in found]
    except (OSError, ValueError, AttributeError, TypeError) as error:
        damage = f"failures.json cannot be read: {error}"
        return [{"scan": "failures.json", "stage": "", "error": "Unreadable", "message": damage}]


def plain(error: Exception) -> str:
    """What went wrong with a scan, as one line for people."""
    return str(error) if isinstance(error, CalibError) else f"not as this engine writes it: {error!r}"
