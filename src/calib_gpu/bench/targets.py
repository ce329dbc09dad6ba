"""What the engine is meant to reach: one literal table, and how each number follows from the measured runs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from typing import Any, Final

MIB: Final = 1024 * 1024


@dataclass(frozen=True)
class Results:
    """Look-ups in what :func:`calib_gpu.bench.cases.run_bench` found; None where a case was not run."""

    cases: dict[str, Any]

    def find(self, case: str, name: str, workers: int | None = None, cache: str = "warm") -> dict[str, Any] | None:
        """The record of a contender: with the most workers unless told."""
        records = [
            r for r in self.cases.get(case, {}).get("contenders", [])
            if r["name"] == name and r["cache"] == cache and workers in (None, r["workers"])
        ]  # fmt: skip
        return max(records, key=lambda r: r["workers"], default=None)

    def value(self, case: str, name: str, key: str = "seconds", workers: int | None = None) -> float | None:
        """Median of a number over the runs of a contender; ``a.b`` looks inside."""
        record = self.find(case, name, workers)
        return None if record is None else median_of(record, key)

    def ratio(self, case: str, name: str, other: str, key: str = "seconds") -> float | None:
        """Median of one contender over that of another."""
        return divide(self.value(case, name, key), self.value(case, other, key))

    def speed(self, case: str, name: str) -> float | None:
        """Samples per second."""
        return divide(self.value(case, name, "samples"), self.value(case, name))


def median_of(record: dict[str, Any], key: str) -> float | None:
    """Median of a number over the runs of a record; None where they have none."""
    values = []
    for run in record["runs"]:
        value: Any = run
        for part in key.split("."):
            value = value.get(part) if isinstance(value, dict) else None
        if value is not None:
            values.append(float(value))
    return median(values) if values else None


def divide(a: float | None, b: float | None) -> float | None:
    """The quotient, where there is one."""
    return None if a is None or not b else a / b


def peaks(results: Results) -> list[float]:
    """Peak memory of the engine beyond the interpreter, on each size of scan, MiB."""
    base = results.value("growth", "interpreter", "peak_bytes")
    names = ("preset", "larger preset", "many channels and pixels")
    found = [results.value("growth", name, "peak_bytes") for name in names]
    return [] if base is None else [(v - base) / MIB for v in found if v is not None]


def two_beside_one(results: Results) -> float | None:
    """Speed with two workers over that with one."""
    return divide(results.value("floor", "engine", workers=1), results.value("floor", "engine", workers=2))


def overhead_ms(results: Results) -> float | None:
    """What the engine adds to the floor, ms a scan."""
    engine, floor = results.value("overhead", "engine"), results.value("overhead", "floor")
    scans = results.value("overhead", "engine", "scans")
    return None if engine is None or floor is None or not scans else 1e3 * (engine - floor) / scans


@dataclass(frozen=True)
class Target:
    """A row of :data:`TARGETS`: what, the limit (a least value, or with ``at_most`` a greatest one), how it is found."""

    what: str
    limit: float
    found: Callable[[Results], float | None]
    unit: str = ""
    at_most: bool = False


TARGETS: Final[dict[str, Target]] = {
    "floor": Target("engine vs floor", 0.8, lambda r: r.ratio("floor", "floor", "engine")),
    "precision speed": Target(
        "precision auto: speed vs the float64 floor", 1.4, lambda r: r.ratio("precision", "floor", "engine, precision auto")
    ),
    "precision size": Target(
        "precision auto: size of L1 vs float64", 0.25,
        lambda r: r.ratio("precision", "engine, precision auto", "engine", "bytes_written"), at_most=True,
    ),
    "numpy": Target("engine vs zarr-python + NumPy", 5.0, lambda r: r.ratio("numpy", "zarr-python + NumPy", "engine")),
    "dask": Target("engine vs xarray + dask", 4.0, lambda r: r.ratio("dask", "xarray + dask", "engine")),
    "reads": Target(
        "chunks (1024,1,1,1,1): engine's read vs tensorstore", 0.8, lambda r: r.ratio("reads", "tensorstore", "engine")
    ),
    "innermost": Target(
        "chunks with all subscans innermost vs one-subscan chunks", 0.6,
        lambda r: r.ratio("chunks", "one subscan", "all subscans innermost"),
    ),
    "workers": Target("two workers vs one", 1.6, two_beside_one),
    "growth": Target(
        "samples/s on the larger preset vs on this one", 0.9,
        lambda r: divide(r.speed("growth", "larger preset"), r.speed("growth", "preset")),
    ),
    "memory": Target(
        "peak memory beyond the interpreter, the largest of three scans", 400.0,
        lambda r: max(peaks(r), default=None), "MiB", at_most=True,
    ),
    "memory spread": Target(
        "the same, largest over smallest", 1.1,
        lambda r: divide(max(peaks(r), default=None), min(peaks(r), default=None)), at_most=True,
    ),
    "pwv": Target(
        "PWV fit, 128 grid points, all pixels", 100.0,
        lambda r: r.value("floor", "engine", "timings_ms.atm"), "ms", at_most=True,
    ),
    "help": Target("`calib-gpu --help`", 0.3, lambda r: r.value("help", "calib-gpu --help"), "s", at_most=True),
    "overhead": Target("overhead per scan over many tiny scans", 15.0, overhead_ms, "ms", at_most=True),
}  # fmt: skip
"""The targets are for preset M, or for what its cases build beside it; ratios are speeds: above 1 the engine is faster."""


def judge(found: dict[str, Any]) -> list[dict[str, Any]]:
    """All targets with the number that was found; ``met`` is None where nothing was measured, or not on preset M."""
    results, judged = Results(found["cases"]), []
    for name, target in TARGETS.items():
        value = target.found(results)
        met = None if value is None else (value <= target.limit if target.at_most else value >= target.limit)
        judged.append({
            "name": name, "what": target.what, "limit": target.limit, "at_most": target.at_most, "unit": target.unit,
            "found": value, "met": met if found["options"]["preset"] == "M" else None,
        })  # fmt: skip
    return judged
