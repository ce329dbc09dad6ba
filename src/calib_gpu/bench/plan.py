"""What the floor is given before its clock starts: the factors and references of the engine, from L0 and L1 alone."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from calib_gpu.errors import ConfigError
from calib_gpu.records import ScanId
from calib_gpu.schema import SUBSCAN_CLASSES

Floats = NDArray[np.float64]

INT32_FILL: Final = -(2**31)


@dataclass(frozen=True)
class ScanPlan:
    """One scan, ready for the bare loop.

    ``counts`` and ``loads`` are folders of ``data_5d``, ``on`` [S_on] and ``others`` numbers of ON and other subscans
    that the engine reads, ``load_subscans`` those of the loads. ``factor`` [R,A,C] is gamma / (C_h - C_c), K/count;
    ``transmission`` [S_on,C]; ``references`` [O,R,A,C] counts; ``slots`` [S_on,2] and ``weights`` [S_on,2] say which
    of them make the reference; ``quantum`` [R,A,S_on] K, zero where T_A* is not rounded; ``bad`` [R,A,C]; ``opaque``
    [S_on,C]. ``fill`` and ``saturation`` are counts or None.
    """

    name: str
    counts: Path
    loads: Path
    on: NDArray[np.int32]
    others: list[int]
    load_subscans: list[int]
    factor: Floats
    transmission: Floats
    references: Floats
    slots: NDArray[np.int64]
    weights: Floats
    quantum: Floats
    bad: NDArray[np.bool_]
    opaque: NDArray[np.bool_]
    fill: int | None
    saturation: float | None
    documents: dict[str, str]


def scans_of(l1: Path) -> list[ScanId]:
    """The scans of a reference L1 store."""
    from calib_gpu.store.l1_store import published_scans

    return published_scans(l1)


def plan_scan(l0: Path, l1: Path, scan: ScanId) -> ScanPlan:
    """The plan of one scan, from its L0 groups and from what the engine wrote for it.

    Raises
    ------
    ConfigError
        The scan was calibrated in a way that the floor does not know (two load sets).
    """
    import zarr

    result: Any = zarr.open_group(str(l1 / scan.path), mode="r")
    attrs: dict[str, Any] = dict(result.attrs)
    settings = json.loads(attrs["settings"])
    if len(set(attrs["load_scans"])) != 1:
        raise ConfigError(
            "two load sets serve a scan", array=str(scan), rule="one set", fix="bench without loads=linear"
        )
    source: Any = zarr.open_group(str(l0 / scan.path / "source"), mode="r")
    load_path = ScanId(int(attrs["load_scans"][0]), scan.band).path
    loads: Any = zarr.open_group(str(l0 / load_path / "calibration"), mode="r")
    scan_attrs: dict[str, Any] = {
        **zarr.open_group(str(l0), mode="r").attrs,
        **zarr.open_group(str(l0 / scan.path), mode="r").attrs,
    }
    saturation = scan_attrs.get("adc_saturation")
    fill = _fill(source["data_5d"])
    kinds = kinds_of(source)
    hot, cold = (_mean(loads, _numbers(kinds_of(loads), kind), fill, saturation) for kind in ("HOT", "COLD"))
    with np.errstate(divide="ignore", invalid="ignore"):
        factor = np.moveaxis(result["gamma"][:], 0, -1) / (hot - cold)
    tau, airmass = result["tau_signal"][:], result["airmass"][:]
    corrected = bool(attrs["transmission_corrected"])
    t = np.minimum(np.exp(-airmass[:, None] * tau), 1.0) if corrected else np.ones((airmass.size, tau.size))
    used = sorted({int(i) for i in result["ref_index"][:].ravel()})
    first = attrs["obs_mode"].lower() == "tp" and settings["tp_ref"] == "first"
    references = np.stack([_mean(source, [i], fill, saturation, first=first) for i in used])
    return ScanPlan(
        scan.path, l0 / scan.path / "source" / "data_5d", l0 / load_path / "calibration" / "data_5d",
        result["on_index"][:], _numbers(kinds, "OFF"), _numbers(kinds_of(loads), "HOT", "COLD", "ZERO", "SKY"),
        factor, t, references, np.searchsorted(used, result["ref_index"][:]), result["ref_weight"][:],
        result["quantum"][:] if "quantum" in result else np.zeros((*factor.shape[:2], len(t))),
        np.moveaxis(result["bad_channels"][:], 0, -1), t < settings["t_min"], fill, saturation,
        {name: (l1 / scan.path / name / "zarr.json").read_text(encoding="utf-8") for name in ("spectra", "flags")},
    )  # fmt: skip


def kinds_of(group: Any) -> list[str]:
    """Classes of the subscans of a zarr group, empty where unknown."""
    return [SUBSCAN_CLASSES.get(str(v).strip().upper(), "") for v in group["sobsmode"][:].ravel()]


def _numbers(kinds: list[str], *wanted: str) -> list[int]:
    return [i for i, kind in enumerate(kinds) if kind in wanted]


def _fill(counts: Any) -> int | None:
    if counts.dtype.kind == "f":
        return None
    return int(counts.attrs.get("fill", INT32_FILL if counts.dtype.kind == "i" else 0)) or None


def _mean(
    group: Any, subscans: list[int], fill: int | None, saturation: float | None, *, first: bool = False
) -> Floats:
    """Mean over the valid dumps of some subscans ``[R, A, C]`` (or the first such dump), pixel by pixel: exact sums."""
    counts = group["data_5d"]
    c, _, n_r, n_a, _ = counts.shape
    out = np.full((n_r, n_a, c), np.nan)
    for r, a in np.ndindex(n_r, n_a):
        total, valid = np.zeros(c), np.zeros(c, np.int64)
        for s in subscans:
            block = counts[:, :, r, a, s]
            good = np.isfinite(block) & (block > 0) & (block != fill if fill is not None else True)
            if saturation is not None:
                good &= block < saturation
            if first:
                k = int(np.argmax(good.any(axis=0)))
                block, good = block[:, k : k + 1], good[:, k : k + 1]
            kind = np.float64 if block.dtype.kind == "f" else np.int64
            total += np.where(good, block, 0).sum(axis=1, dtype=kind)
            valid += np.count_nonzero(good, axis=1)
        with np.errstate(divide="ignore", invalid="ignore"):
            out[r, a] = total / valid
    return out
