"""The cases: who runs beside whom on which store. One literal table; ``run_bench`` runs it and returns what the JSON holds."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Final

from calib_gpu.bench.machine import available_memory, describe_machine
from calib_gpu.bench.measure import Contender, Say, contest, remove_output, run_child
from calib_gpu.bench.stores import CHUNKINGS, ONE_SUBSCAN, Stores
from calib_gpu.bench.targets import judge
from calib_gpu.errors import CalibError, ConfigError
from calib_gpu.settings import knobs
from calib_gpu.simulate.config import PRESETS, Shape
from calib_gpu.workers import usable_cores

FORMAT: Final = "calib-gpu-bench"
FORMAT_VERSION: Final = 1


@dataclass(frozen=True)
class Size:
    """What goes with a preset: the next larger one, a scan of many channels and pixels, and a number of tiny scans."""

    larger: str
    many_pixels: Shape
    tiny_scans: int


SIZES: Final[dict[str, Size]] = {
    "tiny": Size("S", (4096, 2, 1, 4, 4), 3),
    "S": Size("M", (16384, 2, 1, 16, 4), 20),
    "M": Size("L", (65536, 4, 1, 64, 8), 200),
    "L": Size("XL", (65536, 4, 1, 64, 8), 200),
}

WHOLE_ARRAY_BYTES: Final = 26
"""Bytes per sample of all counts that the script on whole arrays takes: int32 twice, T_A*, flags, masks."""


@dataclass(frozen=True)
class Options:
    """What is measured.

    ``work`` is a folder for stores and outputs, which the caller removes; ``l0`` a store to use instead of a preset's;
    ``workers`` the numbers of threads, of which the largest is used where one is enough.
    """

    work: Path
    preset: str = "M"
    l0: Path | None = None
    workers: tuple[int, ...] = ()
    repeat: int = 5
    cases: tuple[str, ...] = ()
    cold: bool = False

    def __post_init__(self) -> None:
        rules = (
            ("--preset", self.preset, self.preset in SIZES, " | ".join(SIZES)),
            ("--repeat", self.repeat, self.repeat >= 1, ">= 1"),
            ("--workers", self.workers, all(w >= 1 for w in self.workers), "numbers >= 1, e.g. 1,2"),
            (
                "--cases",
                ", ".join(sorted(set(self.cases) - set(CASES))),
                set(self.cases) <= set(CASES),
                " | ".join(CASES),
            ),
        )
        for name, value, good, rule in rules:
            if not good:
                raise ConfigError("value not allowed", array=name, value=value, rule=rule)


@dataclass
class Bench:
    """What the cases of one run share: options, stores, and the plan of the floor for each store."""

    options: Options
    say: Say
    stores: Stores = field(init=False)
    _plans: dict[tuple[Path, str], tuple[Path, list[str]]] = field(default_factory=dict)
    _numbers: Iterator[int] = field(default_factory=itertools.count)

    def __post_init__(self) -> None:
        self.stores = Stores(self.options.work, self.most, self.say)

    @property
    def workers(self) -> tuple[int, ...]:
        """Numbers of threads, ascending: those asked for, else one and all cores."""
        return tuple(sorted(set(self.options.workers or (1, usable_cores()))))

    @property
    def most(self) -> int:
        """The largest number of threads."""
        return self.workers[-1]

    @property
    def main(self) -> Path:
        """The store that most cases are about."""
        if self.options.l0 is not None:
            return self.options.l0
        return self.stores.preset(self.options.preset)

    @property
    def caches(self) -> tuple[str, ...]:
        """States of the page cache."""
        return ("warm", "cold") if self.options.cold else ("warm",)

    def plan(self, l0: Path, *, many_files: bool = False, **more: Any) -> tuple[Path, list[str]]:
        """The floor's plan for a store, and the scans in it; made by one run of the engine, whose L1 is removed again.

        ``more`` are settings. An L1 of ``many_files`` stays until the end, see :func:`calib_gpu.bench.measure.contest`.
        """
        key = l0, str(more)
        if key not in self._plans:
            self.say("factors and references for the floor")
            n = next(self._numbers)
            reference, file = self.options.work / f"reference-{n}.zarr", self.options.work / f"{n}.plan"
            settings = {"workers": self.most, **more}
            try:
                run_child("engine", {"l0": str(l0), "out": str(reference), "settings": settings})
                made = run_child("plan", {"l0": str(l0), "l1": str(reference), "file": str(file)})
            finally:
                if not many_files:
                    remove_output(reference)
            self._plans[key] = file, made["scans"]
        return self._plans[key]

    def engine(self, l0: Path, name: str = "engine", workers: int = 0, cache: str = "warm", **more: Any) -> Contender:
        """A run of the engine; ``more`` are settings."""
        n = workers or self.most
        arguments = {"l0": str(l0), "settings": {"workers": n, **more}}
        return Contender(name, "engine", arguments, n, l0, cache)

    def floor(self, l0: Path, name: str = "floor", workers: int = 0, cache: str = "warm", **more: Any) -> Contender:
        """The floor of a store; ``more`` are settings of what it writes."""
        n = workers or self.most
        return Contender(name, "floor", {"plan": str(self.plan(l0, **more)[0]), "workers": n}, n, l0, cache)


def beside_the_floor(bench: Bench) -> list[Contender]:
    """Engine and floor for each number of workers and state of the cache, and the bare interpreter."""
    l0, pairs = bench.main, [(w, cache) for cache in bench.caches for w in bench.workers]
    both = [make(l0, workers=w, cache=cache) for w, cache in pairs for make in (bench.engine, bench.floor)]
    return [Contender("interpreter", "import", {}), *both]


def beside_numpy(bench: Bench) -> list[Contender]:
    """Engine and the script on whole arrays."""
    l0 = bench.main
    scans = bench.plan(l0)[1]
    need = WHOLE_ARRAY_BYTES * largest_scan(l0)
    if need > available_memory():
        raise ConfigError(
            "the script on whole arrays does not fit in memory", array=str(l0), value=f"{available_memory() / 1e9:.0f} GB",
            rule=f"about {need / 1e9:.0f} GB",
        )  # fmt: skip
    script = Contender("zarr-python + NumPy", "numpy", {"l0": str(l0), "scans": scans}, 0, l0)
    return [bench.engine(l0), script]


def beside_dask(bench: Bench) -> list[Contender]:
    """Engine and the script with xarray and dask threads."""
    l0 = bench.main
    arguments = {"l0": str(l0), "scans": bench.plan(l0)[1], "workers": bench.most}
    return [bench.engine(l0), Contender("xarray + dask", "dask", arguments, bench.most, l0)]


def with_precision(bench: Bench) -> list[Contender]:
    """Engine and floor, at full precision and with rounded T_A*."""
    if "precision" not in knobs():
        raise ConfigError("no such setting in this version", array="precision", fix="leave out the case precision")
    l0 = bench.main
    name = ", precision auto"
    return [
        bench.engine(l0), bench.engine(l0, f"engine{name}", precision="auto"),
        bench.floor(l0), bench.floor(l0, f"floor{name}", precision="auto"),
    ]  # fmt: skip


def reading_alone(bench: Bench) -> list[Contender]:
    """Reading chunks of one dump and 1024 channels: engine and tensorstore."""
    l0 = bench.stores.rechunked(bench.main, "(1024,1,1,1,1)")
    arguments = {"l0": str(l0), "workers": bench.most}
    return [
        Contender("engine", "read_engine", arguments, bench.most, l0),
        Contender("tensorstore", "read_tensorstore", arguments, bench.most, l0),
    ]


def hostile_chunks(bench: Bench) -> list[Contender]:
    """The engine on the same data in different chunks."""
    found = [bench.engine(bench.main, ONE_SUBSCAN)]
    for name in CHUNKINGS:
        try:
            found.append(bench.engine(bench.stores.rechunked(bench.main, name), name))
        except ConfigError as error:  # one chunk of the whole array is for small stores only
            bench.say(f"left out: {error}")
    return found


def growing(bench: Bench) -> list[Contender]:
    """The engine on scans of different size: time must grow linearly, memory not at all."""
    size = SIZES[bench.options.preset]
    larger, wide = bench.stores.preset(size.larger), bench.stores.shaped("many-pixels", size.many_pixels)
    return [
        Contender("interpreter", "import", {}),
        bench.engine(bench.main, "preset"),
        bench.engine(larger, "larger preset"),
        bench.floor(larger, "floor, larger preset"),
        bench.engine(wide, "many channels and pixels"),
    ]


def many_scans(bench: Bench) -> list[Contender]:
    """Many tiny scans: engine (and a second run that skips all) and floor."""
    l0 = bench.stores.tiny_scans(SIZES[bench.options.preset].tiny_scans)
    arguments = {"l0": str(l0), "settings": {"workers": bench.most}, "again": True}
    engine = Contender("engine", "engine", arguments, bench.most, l0)
    return [replace(contender, many_files=True) for contender in (engine, bench.floor(l0, many_files=True))]


def help_text(bench: Bench) -> list[Contender]:
    """The time until the program has said what it can do."""
    return [Contender("calib-gpu --help", "help", {})]


@dataclass(frozen=True)
class Case:
    """A row of :data:`CASES`: what it shows, and who runs."""

    what: str
    contenders: Callable[[Bench], Sequence[Contender]]
    quick: bool = True


CASES: Final[dict[str, Case]] = {
    "floor": Case("engine beside the floor", beside_the_floor),
    "numpy": Case("engine beside zarr-python and NumPy on whole arrays", beside_numpy),
    "dask": Case("engine beside xarray and dask threads", beside_dask),
    "precision": Case("T_A* rounded well below its noise, beside full precision", with_precision),
    "reads": Case("reading chunks of (1024,1,1,1,1): engine beside tensorstore", reading_alone),
    "chunks": Case("engine on the same data in other chunks", hostile_chunks, quick=False),
    "growth": Case("engine on larger scans", growing, quick=False),
    "overhead": Case("many tiny scans", many_scans),
    "help": Case("start of the program", help_text),
}
"""All cases by name; ``quick`` ones belong to ``calib-gpu bench --quick``."""


def largest_scan(l0: Path) -> int:
    """Samples of the largest array of counts of a store."""
    from calib_gpu.store.metadata import array_meta

    sizes = [1]
    for path in l0.glob("scan_*/**/source/data_5d"):
        n = 1
        for length in array_meta(path).shape:
            n *= length
        sizes.append(n)
    return max(sizes)


def run_bench(options: Options, say: Say = lambda text: None, without: Sequence[str] = ()) -> dict[str, Any]:
    """Run the cases, but those ``without``; machine, options, runs and targets as ``--json`` writes them.

    A case that cannot be run here (a library is missing, a scan is too large) is left out with its reason, unless it
    was asked for by name.

    Raises
    ------
    ConfigError
        A case that was asked for cannot be run.
    CalibError
        A measured run failed.
    """
    bench, results = Bench(options, say), dict[str, Any]()
    for name in options.cases or [name for name in CASES if name not in without]:
        case = CASES[name]
        record: dict[str, Any] = {"what": case.what}
        try:
            contenders = case.contenders(bench)
            tell = partial(_tell, say, name)
            record["contenders"] = contest(contenders, options.repeat, options.work, tell)
        except CalibError as error:
            if options.cases:
                raise
            say(f"{name}: left out: {error}")
            record["left_out"] = str(error)
        results[name] = record
    found = {
        "format": FORMAT, "version": FORMAT_VERSION, "machine": describe_machine(options.work),
        "options": {
            "preset": options.preset if options.l0 is None else None, "shape": PRESETS[options.preset],
            "workers": bench.workers, "repeat": options.repeat, "cold": options.cold, "larger": SIZES[options.preset].larger,
        },
        "cases": results,
    }  # fmt: skip
    return found | {"targets": judge(found)}


def _tell(say: Say, case: str, text: str) -> None:
    say(f"{case}: {text}")
