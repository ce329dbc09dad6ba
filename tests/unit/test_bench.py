"""The benchmarks run, and what they compare is the same: floor and scripts give the engine's numbers. Nothing is timed."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
import zarr

from calib_gpu.bench import CASES, TARGETS, Options, measure, run_bench
from calib_gpu.bench.cases import SIZES
from calib_gpu.bench.floor import run_floor
from calib_gpu.bench.machine import file_system
from calib_gpu.bench.measure import Contender, empty_cache, fill_cache, run_child
from calib_gpu.bench.plan import plan_scan, scans_of
from calib_gpu.bench.report import as_markdown, read_found, tables
from calib_gpu.bench.scripts import dask_script, numpy_script
from calib_gpu.bench.stores import CHUNKINGS, rechunk
from calib_gpu.bench.targets import Results, judge
from calib_gpu.cli import bench as command
from calib_gpu.errors import CalibError, ConfigError
from calib_gpu.schema import Flag
from calib_gpu.settings import knobs
from calib_gpu.simulate import realistic, simulate
from calib_gpu.simulate.config import Shape
from calib_gpu.store.disk import remove_tree

Chunking = dict[str, Callable[[Shape, int], Shape]]

pytestmark = pytest.mark.filterwarnings(  # what the libraries tell users of such scripts: dead pixels, parts of a shard
    "ignore::RuntimeWarning", "ignore:The specified chunks separate"
)


@pytest.fixture(scope="module")
def night(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A night with every kind of bad sample, and what the engine makes of it."""
    folder = tmp_path_factory.mktemp("bench")
    l0, l1 = folder / "night.zarr", folder / "l1.zarr"
    defects: dict[str, Any] = {"dead_pixels": 1, "holes": 0.01, "padding": 2, "zero_level": 50.0}
    simulate(
        l0, realistic("tiny", shape=(1024, 24, 1, 3, 8), n_scans=2, night=True, broken=False, **defects), workers=1
    )
    assert run_child("engine", {"l0": str(l0), "out": str(l1), "settings": {"workers": 1}})["scans"] == 2
    return l0, l1


def values(store: Path, scan: str, name: str) -> np.ndarray:
    return zarr.open_array(str(store / scan / name), mode="r")[...]


@pytest.mark.parametrize("chunking", [None, "(1024,1,1,1,1)"])
def test_the_floor_writes_the_spectra_of_the_engine_bit_for_bit(
    night: tuple[Path, Path], tmp_path: Path, chunking: str | None
) -> None:
    l0, l1 = night
    if chunking is not None:
        l0 = tmp_path / "other.zarr"
        rechunk(night[0], l0, CHUNKINGS[chunking])
    plans = [plan_scan(l0, l1, scan) for scan in scans_of(l1)]
    found = run_floor(plans, tmp_path / "floor", workers=2)
    for plan in plans:
        spectra, expected = (values(store, plan.name, "spectra") for store in (tmp_path / "floor", l1))
        np.testing.assert_array_equal(spectra.view(np.uint64), expected.view(np.uint64))
        np.testing.assert_array_equal(values(tmp_path / "floor", plan.name, "flags"), values(l1, plan.name, "flags"))
        assert np.isnan(expected).any()
        assert np.isfinite(expected).mean() > 0.5
    assert found["samples"] == sum(values(l1, plan.name, "spectra").size for plan in plans)


def test_the_floor_knows_total_power_and_saturation(tmp_path: Path) -> None:
    l0, l1 = tmp_path / "tp.zarr", tmp_path / "l1.zarr"
    shape = (512, 6, 2, 2, 6)
    simulate(l0, realistic("tiny", shape=shape, mode="tp", n_scans=1, night=False, saturation=0.02), workers=1)
    run_child("engine", {"l0": str(l0), "out": str(l1), "settings": {"workers": 1, "reference": "interp"}})
    (scan,) = scans_of(l1)
    run_floor([plan_scan(l0, l1, scan)], tmp_path / "floor", workers=1)
    for name in ("spectra", "flags"):
        np.testing.assert_array_equal(values(tmp_path / "floor", scan.path, name), values(l1, scan.path, name))
    assert np.count_nonzero(values(l1, scan.path, "flags") & Flag.INVALID_COUNT) > 0


@pytest.mark.parametrize("settings", [{}, {"precision": "auto"}, {"precision": 3, "codec": "blosc_zstd"}], ids=str)
def test_the_floor_writes_the_files_of_the_engine(
    night: tuple[Path, Path], tmp_path: Path, settings: dict[str, Any]
) -> None:
    """The same shards with the same bytes: what is measured is the same work."""
    l0, l1 = night
    if settings:
        l1 = tmp_path / "l1.zarr"
        run_child("engine", {"l0": str(l0), "out": str(l1), "settings": settings})
    plans = [plan_scan(l0, l1, scan) for scan in scans_of(l1)]
    run_floor(plans, tmp_path / "floor", workers=1)
    for plan in plans:
        for name in ("spectra", "flags"):
            mine, theirs = (
                {p.name: p.read_bytes() for p in (store / plan.name / name).iterdir()}
                for store in (tmp_path / "floor", l1)
            )
            assert mine == theirs


def test_the_floor_reads_every_byte_that_the_engine_reads(night: tuple[Path, Path], tmp_path: Path) -> None:
    l0, l1 = night
    report = run_child("engine", {"l0": str(l0), "out": str(tmp_path / "l1.zarr"), "settings": {"workers": 1}})
    plans = [plan_scan(l0, l1, scan) for scan in scans_of(l1)]
    found = run_floor(plans, tmp_path / "floor", workers=1)
    shards = sum(p.stat().st_size for p in (tmp_path / "floor").rglob("c.*"))
    engine = report["bytes_read"]  # load sets that serve two scans, or the gain drift, are read once or once more
    assert abs(found["bytes"] - shards - engine) < 0.25 * engine


def test_the_floor_refuses_layouts_without_a_loop(night: tuple[Path, Path], tmp_path: Path) -> None:
    l0, l1 = night
    rechunk(l0, tmp_path / "one.zarr", CHUNKINGS["one chunk"])
    plans = [plan_scan(tmp_path / "one.zarr", l1, scan) for scan in scans_of(l1)]
    with pytest.raises(ConfigError, match="no loop for this layout"):
        run_floor(plans, tmp_path / "floor", workers=1)


@pytest.mark.parametrize("script", ["numpy", "dask"])
def test_the_scripts_agree_with_the_engine(night: tuple[Path, Path], tmp_path: Path, script: str) -> None:
    l0, l1 = night
    scans = [scan.path for scan in scans_of(l1)]
    if script == "numpy":
        samples = numpy_script(l0, scans, tmp_path)
    else:
        pytest.importorskip("dask")
        pytest.importorskip("xarray")
        samples = dask_script(l0, scans, tmp_path, 1)
    assert samples == sum(values(l1, scan, "spectra").size for scan in scans)
    for scan in scans:
        np.testing.assert_array_equal(values(tmp_path, scan, "flags"), values(l1, scan, "flags"))
        mine, theirs = values(tmp_path, scan, "spectra"), values(l1, scan, "spectra")
        scale = np.nanmax(np.abs(theirs))
        np.testing.assert_allclose(mine, theirs, rtol=1e-6, atol=1e-9 * scale)


def test_rechunked_stores_hold_the_same_counts(night: tuple[Path, Path], tmp_path: Path) -> None:
    l0, _ = night
    expected = zarr.open_array(str(l0 / "scan_025650/source/data_5d"), mode="r")
    uneven: Chunking = {"uneven": lambda shape, itemsize: (700, 5, 1, 2, 3)}  # no length is a multiple of it
    for k, (name, chunk_of) in enumerate((CHUNKINGS | uneven).items()):
        out = tmp_path / f"{k}.zarr"
        rechunk(l0, out, chunk_of)
        found = zarr.open_array(str(out / "scan_025650/source/data_5d"), mode="r")
        assert found.chunks == chunk_of(expected.shape, 4), name
        np.testing.assert_array_equal(found[...], expected[...])
        assert dict(found.attrs) == dict(expected.attrs)
        assert found.metadata.dimension_names == ("C", "D", "R", "A", "S")
        remove_tree(out)


@pytest.mark.slow
def test_every_case_runs_at_tiny_size(tmp_path: Path) -> None:
    for name in ("dask", "xarray", "tensorstore"):
        pytest.importorskip(name)
    found = run_bench(Options(tmp_path, "tiny", repeat=1, workers=(1, 2), cold=True))
    assert not list(tmp_path.glob("out.zarr*")), "outputs are removed after each run"
    check_cases(found)
    check_work(found)
    check_targets(found)
    check_tables(found, tmp_path / "found.json")


def check_cases(found: dict[str, Any]) -> None:
    """Every case has run, or says why not."""
    assert list(found["cases"]) == list(CASES)
    without = [] if "precision" in knobs() else ["precision"]
    assert [name for name, case in found["cases"].items() if "left_out" in case] == without
    for case in found["cases"].values():
        for record in case.get("contenders", []):
            assert len(record["runs"]) == 1
            assert record["runs"][0]["peak_bytes"] > 0
    assert json.loads(json.dumps(found, allow_nan=False))["format"] == "calib-gpu-bench"


def check_work(found: dict[str, Any]) -> None:
    """In every case but growth all that count samples count the same; both readers sum up the same counts."""
    for name, case in found["cases"].items():
        counts = {r["runs"][0]["samples"] for r in case.get("contenders", []) if "samples" in r["runs"][0]}
        assert len(counts) <= (3 if name == "growth" else 1), name
    engine, tensorstore = (r["runs"][0]["sum"] for r in found["cases"]["reads"]["contenders"])
    assert engine == tensorstore
    caches = [(r["name"], r["workers"], r["cache"]) for r in found["cases"]["floor"]["contenders"][1:]]
    assert len(set(caches)) == 8


def check_targets(found: dict[str, Any]) -> None:
    """Every target has a number, and is judged on preset M only."""
    targets = {t["name"]: t for t in judge(found | {"options": {**found["options"], "preset": "M"}})}
    assert list(targets) == list(TARGETS)
    missing = {name for name, t in targets.items() if t["found"] is None}
    assert missing == (set() if "precision" in knobs() else {"precision speed", "precision size"})
    assert all(t["met"] is None for t in found["targets"]), "only preset M is judged"
    assert all((t["met"] is None) == (t["found"] is None) for t in targets.values())


def made_up(**cases: list[dict[str, Any]]) -> Results:
    common = {"workers": 2, "cache": "warm", "task": "engine"}
    return Results({name: {"contenders": [common | record for record in records]} for name, records in cases.items()})


def test_targets_are_ratios_of_medians() -> None:
    """Worked by hand: medians 4 and 3; 100 and 300 MiB beyond 50; (2.0 - 0.5) s over 100 scans."""
    mib = 1024 * 1024
    results = made_up(
        floor=[
            {"name": "floor", "runs": [{"seconds": s} for s in (3.0, 1.0, 9.0)]},
            {"name": "engine", "runs": [{"seconds": s, "timings_ms": {"atm": 10 * s}} for s in (2.0, 4.0, 8.0)]},
            {"name": "engine", "workers": 1, "runs": [{"seconds": 7.0}]},
        ],
        growth=[
            {"name": "interpreter", "runs": [{"seconds": 0.0, "peak_bytes": 50 * mib}]},
            {"name": "preset", "runs": [{"seconds": 1.0, "samples": 10, "peak_bytes": 150 * mib}]},
            {"name": "larger preset", "runs": [{"seconds": 4.0, "samples": 20, "peak_bytes": 350 * mib}]},
        ],
        overhead=[
            {"name": "engine", "runs": [{"seconds": 2.0, "scans": 100}]},
            {"name": "floor", "runs": [{"seconds": 0.5}]},
        ],
    )
    expected = {
        "floor": 0.75, "workers": 1.75, "pwv": 40.0, "growth": 0.5, "memory": 300.0, "memory spread": 3.0, "overhead": 15.0,
    }  # fmt: skip
    assert {name: TARGETS[name].found(results) for name in expected} == pytest.approx(expected)
    assert TARGETS["dask"].found(results) is None


def check_tables(found: dict[str, Any], path: Path) -> None:
    """The tables show every case, from what --json writes; another file is refused."""
    path.write_text(json.dumps(found))
    text = as_markdown(tables(read_found(path)))
    for word in (*CASES, "Msamples/s", "GB/s", "resolve", "ms a scan", "numcodecs", "skipped"):
        assert word in text
    path.write_text("{}")
    with pytest.raises(ConfigError, match="not a result"):
        read_found(path)


def test_the_command_shows_and_writes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    work, file = tmp_path / "work", tmp_path / "found.json"
    work.mkdir()
    command.bench(preset="tiny", repeat=1, cases="help", work=work, json_file=file)
    shown = capsys.readouterr()
    assert "start of the program" in shown.out
    assert "help: calib-gpu --help, run 1 of 1" in shown.err
    assert not list(work.iterdir()), "stores and outputs are removed"
    command.bench(from_json=file, markdown=True)
    assert "| what | target | found | met |" in capsys.readouterr().out


def test_a_given_store_is_measured_and_left_as_it_is(night: tuple[Path, Path], tmp_path: Path) -> None:
    l0, _ = night
    before = sorted((p, p.stat().st_mtime_ns) for p in l0.rglob("*"))
    found = run_bench(Options(tmp_path, "tiny", l0=l0, repeat=1, workers=(1,), cases=("floor",)))
    assert sorted((p, p.stat().st_mtime_ns) for p in l0.rglob("*")) == before
    assert found["options"]["preset"] is None
    assert [r["workers"] for r in found["cases"]["floor"]["contenders"]] == [0, 1, 1]


@pytest.mark.parametrize(
    "wrong", [{"preset": "XXL"}, {"repeat": 0}, {"workers": (0,)}, {"cases": ("floor", "speed")}], ids=str
)
def test_wrong_options_are_refused(tmp_path: Path, wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=f"--{next(iter(wrong))}"):
        Options(tmp_path, **wrong)


def test_words_for_numbers_are_refused() -> None:
    with pytest.raises(ConfigError, match="--workers"):
        command.parse_numbers("1,many")


def test_a_case_that_is_asked_for_and_cannot_run_is_an_error(
    night: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("calib_gpu.bench.cases.knobs", dict)
    options = {"preset": "tiny", "l0": night[0], "repeat": 1}
    with pytest.raises(ConfigError, match="precision: no such setting"):
        run_bench(Options(tmp_path, cases=("precision",), **options))


def test_a_run_that_fails_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(CalibError, match=r"engine: a measured run failed .*no such directory"):
        run_child("engine", {"l0": str(tmp_path / "none"), "out": str(tmp_path / "l1"), "settings": {}})


def test_the_peak_is_that_of_the_run_alone() -> None:
    """Memory of the process that starts a run does not count."""
    before = run_child("import", {})["peak_bytes"]
    ballast = np.ones(400 * 1024 * 1024, np.uint8)
    after = run_child("import", {})["peak_bytes"]
    assert ballast[-1] == 1
    assert after < before + 64 * 1024 * 1024


def test_the_cache_is_emptied_and_filled(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "b").write_bytes(bytes(100))
    empty_cache(tmp_path)
    fill_cache(tmp_path)
    assert (tmp_path / "a" / "b").read_bytes() == bytes(100)
    assert file_system(Path("/proc/self")) == "proc"


def test_the_registries_fit_each_other() -> None:
    app = typer.main.get_command(command.app)
    assert ", ".join(CASES) in " ".join((app.commands["bench"].help or "").split())  # type: ignore[attr-defined]
    assert set(SIZES) >= {"tiny", "S", "M"}
    assert SIZES["M"].many_pixels[0] == 65536
    assert SIZES["M"].many_pixels[2] * SIZES["M"].many_pixels[3] == 64


def test_outputs_of_many_files_stay_until_the_case_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """New files are slow while others were just removed; after a failure nothing stays either."""
    there: list[int] = []

    def child(task: str, arguments: dict[str, Any]) -> dict[str, Any]:
        there.append(len(list(tmp_path.iterdir())))
        if len(there) > 6:
            raise CalibError("a measured run failed")
        Path(arguments["out"]).mkdir()
        return {"seconds": 1.0}

    monkeypatch.setattr(measure, "run_child", child)
    one = Contender("engine", "engine", {}, many_files=True)
    measure.contest([one], 3, tmp_path, lambda text: None)
    measure.contest([replace(one, many_files=False)], 2, tmp_path, lambda text: None)
    assert there == [0, 1, 2, 0, 0]
    with pytest.raises(CalibError):
        measure.contest([one], 3, tmp_path, lambda text: None)
    assert list(tmp_path.iterdir()) == []
