"""P8: hostile input does no harm.

Every store of the catalogue ends in a failed scan that is named, or in exit code 65, in seconds and in bounded
memory; nothing is written outside the output, and the sound scan beside it is calibrated.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

import calib_gpu
from calib_gpu import Settings
from calib_gpu.errors import ConfigError, OutputError
from calib_gpu.pipeline import Progress
from calib_gpu.testing.hostile import CATALOGUE, Hostile
from calib_gpu.testing.tamper import BAD, GOOD, sound_store
from forked_runs import Ran, run_all

SECONDS, MIB = 5.0, 64.0
SOUND = "sound"


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A folder for each kind: ``l0.zarr`` in it, and a place for the output."""
    top = tmp_path_factory.mktemp("hostile")
    sound_store(top / "template.zarr")
    made = {}
    for number, (kind, hostile) in enumerate({SOUND: None, **CATALOGUE}.items()):
        folder = top / f"{number:02d}"
        shutil.copytree(top / "template.zarr", folder / "l0.zarr")
        try:
            if hostile is not None:
                hostile.apply(folder / "l0.zarr")
        except PermissionError:
            continue  # a device can be made by root alone
        made[kind] = folder
    return made


def tree(folder: Path) -> dict[str, str]:
    """Every entry below a folder but those of the output, and what it is."""
    found = {}
    for parent, folders, files in os.walk(folder):
        for name in (*folders, *files):
            path = Path(parent) / name
            if path.relative_to(folder).parts[0].startswith("l1.zarr"):
                continue
            status = path.lstat()
            small = path.is_file() and not path.is_symlink() and status.st_size < 1 << 24
            what = hashlib.sha256(path.read_bytes()).hexdigest() if small else ""
            found[str(path.relative_to(folder))] = f"{status.st_mode} {status.st_size} {status.st_mtime_ns} {what}"
    return found


@pytest.fixture(scope="module")
def runs(stores: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Ran, bool]]:
    """Each kind's run, and whether it left everything but the output as it was."""
    before = {kind: tree(folder) for kind, folder in stores.items()}
    jobs = {}
    for kind, folder in stores.items():
        options = [f"{name}={value}" for name, value in (CATALOGUE[kind].options if kind != SOUND else {}).items()]
        jobs[kind] = ["run", str(folder / "l0.zarr"), str(folder / "l1.zarr"), "--workers", "1"]
        jobs[kind] += [word for option in options for word in ("--set", option)]
    done = run_all(jobs, tmp_path_factory.mktemp("printed"))
    return {kind: (ran, tree(stores[kind]) == before[kind]) for kind, ran in done.items()}


def digest(l1: Path, scan: int) -> str:
    return str(json.loads((l1 / f"scan_{scan:06d}" / "zarr.json").read_bytes())["attributes"]["digest"])


@pytest.mark.parametrize("kind", CATALOGUE)
def test_every_kind_is_refused_by_name(stores: dict[str, Path], runs: dict[str, tuple[Ran, bool]], kind: str) -> None:
    if kind not in stores:
        pytest.skip("only root can make a device")
    hostile: Hostile = CATALOGUE[kind]
    ran, untouched = runs[kind]
    sound, _ = runs[SOUND]
    assert "Traceback" not in ran.out + ran.err, ran.err
    assert untouched, "something outside the output was written"
    assert ran.seconds <= SECONDS
    assert ran.peak_mib <= sound.peak_mib + MIB
    l1 = stores[kind] / "l1.zarr"
    if hostile.outcome == "unusable":
        assert ran.code == 65, ran.err
        message = ran.err
    else:
        assert ran.code == 2, ran.err
        failures = json.loads((l1 / "failures.json").read_bytes())
        message = next((f["message"] for f in failures if f["scan"] == hostile.scan), "")
        assert digest(l1, GOOD) == digest(stores[SOUND] / "l1.zarr", GOOD), "the sound scan suffered"
        expected = ["failures.json", f"scan_{GOOD:06d}", "zarr.json"]
        if hostile.scan != f"scan_{BAD:06d}":
            expected.insert(2, f"scan_{BAD:06d}")
        assert sorted(p.name for p in l1.iterdir()) == expected
    for word in hostile.words:
        assert word in message, message or ran.err
    assert "\n" not in message.strip(), "a name printed as it is"


def test_the_figures(runs: dict[str, tuple[Ran, bool]], figure: Any) -> None:
    sound, _ = runs[SOUND]
    assert sound.code == 0
    hostile = {kind: ran for kind, (ran, _) in runs.items() if kind != SOUND}
    slowest = max(hostile, key=lambda kind: hostile[kind].seconds)
    largest = max(hostile, key=lambda kind: hostile[kind].peak_mib)
    refused = sum(ran.code in (2, 65) for ran in hostile.values())
    figure("P8", "hostile stores refused", f"{refused} of {len(hostile)}", "all")
    figure("P8", f"slowest ({slowest}), s", round(hostile[slowest].seconds, 2), SECONDS)
    over = round(hostile[largest].peak_mib - sound.peak_mib, 1)
    figure("P8", f"memory beyond that of a sound store ({largest}), MiB", over, MIB)
    assert refused == len(hostile)


# --- what is hostile in how the two stores lie to each other ----------------------------------------------------------


def test_output_inside_the_input(tmp_path: Path) -> None:
    sound_store(tmp_path / "l0.zarr")
    before = tree(tmp_path)
    (tmp_path / "link.zarr").symlink_to(tmp_path / "l0.zarr")
    for output in (
        tmp_path / "l0.zarr",
        tmp_path / "l0.zarr" / "l1.zarr",
        tmp_path / "link.zarr" / "l1.zarr",
        tmp_path,
    ):
        with pytest.raises((ConfigError, OutputError)):
            calib_gpu.calibrate(tmp_path / "l0.zarr", output)
    (tmp_path / "link.zarr").unlink()
    after = tree(tmp_path)
    assert {name: what for name, what in after.items() if name in before} == before


def test_output_that_shares_files_with_the_input(tmp_path: Path) -> None:
    """Hard links: what is written to one name would be seen under the other."""
    sound_store(tmp_path / "l0.zarr")
    shutil.copytree(tmp_path / "l0.zarr", tmp_path / "l1.zarr", copy_function=os.link)
    before = tree(tmp_path)
    with pytest.raises(OutputError, match="not an L1 store"):
        calib_gpu.calibrate(tmp_path / "l0.zarr", tmp_path / "l1.zarr", Settings(overwrite=True))
    assert tree(tmp_path) == before


@pytest.mark.parametrize("group", ["source", "calibration"])
def test_input_that_changes_while_it_is_read(tmp_path: Path, group: str) -> None:
    sound_store(tmp_path / "l0.zarr")

    class Writer(Progress):
        def begin(self, scan: str, samples: int) -> None:
            if scan == f"scan_{BAD:06d}":
                path = tmp_path / "l0.zarr" / scan / group / "data_5d" / "c.0.0.0.0.0"
                path.write_bytes(path.read_bytes())

    report = calib_gpu.calibrate(tmp_path / "l0.zarr", tmp_path / "l1.zarr", progress=Writer())
    assert [(s.status, s.error) for s in report.scans] == [("ok", ""), ("failed", "Unreadable")]
    assert "changed while it was read" in report.scans[1].message
    assert group in report.scans[1].message
    assert not (tmp_path / "l1.zarr" / f"scan_{BAD:06d}").exists()
