"""The invariant behind all promises, under any order of runs, crashes, full disks, other writers and changed settings."""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from calib_gpu import ConfigError, OutputError, Settings
from calib_gpu.pipeline import Progress, calibrate
from calib_gpu.store.l1_store import check_store
from calib_gpu.store.publish import Publisher
from calib_gpu.testing.faulty_disk import CHANGES, READS, FaultyDisk, crash, fail, lose_reply
from invariant import FIRST, FULL, Figure, Night, count, failed_scans, make_night

OPERATIONS = 420
"""About so many operations that change the disk has a run over the whole night."""

numbers = st.lists(st.sampled_from([FIRST, FIRST + 1, FIRST + 2]), min_size=1, max_size=3, unique=True)
at = st.integers(0, OPERATIONS)
FAILURES = (errno.ENOSPC, errno.EIO, errno.EROFS, errno.EDQUOT, errno.EACCES)


class OtherRun(Progress):
    """Calibrates the whole night in the midst of another run."""

    def __init__(self, night: Night, l1: Path) -> None:
        self.night, self.l1, self.begun = night, l1, False

    def begin(self, scan: str, samples: int) -> None:
        if not self.begun:
            self.begun = True
            self.night.run(self.l1)


class Store(RuleBasedStateMachine):
    """An L1 store that is treated badly; ``night`` is what its scans must be, under the settings that made them."""

    nights: tuple[Night, Night]
    folder: Path
    seen: dict[str, int]

    def __init__(self) -> None:
        super().__init__()
        self.root = Path(tempfile.mkdtemp(dir=self.folder))
        self.l1 = self.root / "out" / "l1.zarr"
        self.night = self.nights[0]
        self.options: dict[str, object] = {}
        self.seen["stores"] += 1

    def teardown(self) -> None:
        shutil.rmtree(self.root)

    def calibrate(self, scans: list[int] | None = None, **more: object) -> None:
        chosen = Settings(**{"workers": 1, **self.options, **more})
        calibrate(self.night.l0, self.l1, chosen, scans=scans)

    def attempt(self, disk: FaultyDisk, scans: list[int] | None) -> None:
        """Calibrate on a disk that may fail so early that nothing can be begun."""
        with disk, contextlib.suppress(OutputError):
            self.calibrate(scans)

    @rule(scans=numbers)
    def run(self, scans: list[int]) -> None:
        """Some scans of the night."""
        self.calibrate(scans)

    @rule(scans=st.none() | numbers, k=at, when=st.sampled_from(["before", "after", "inside"]))
    def crash(self, scans: list[int] | None, k: int, when: str) -> None:
        """The process dies at an operation."""
        self.attempt(FaultyDisk(self.root / "out", crash(when), at=k), scans)

    @rule(scans=st.none() | numbers, k=at, number=st.sampled_from(FAILURES), lasting=st.booleans())
    def break_disk(self, scans: list[int] | None, k: int, number: int, lasting: bool) -> None:
        """The disk fails, once or from then on."""
        self.attempt(FaultyDisk(self.root / "out", fail(number), at=k, lasting=lasting), scans)

    @rule(k=at, number=st.sampled_from(FAILURES))
    def lose_reply(self, k: int, number: int) -> None:
        """An operation is done, but the engine hears that it was not."""
        self.attempt(FaultyDisk(self.root / "out", lose_reply(number), at=k), None)

    @rule(k=st.integers(0, 200), number=st.sampled_from([errno.EIO, errno.EACCES, errno.ESTALE]))
    def fail_a_question(self, k: int, number: int) -> None:
        """Something of the output cannot be read."""
        disk = FaultyDisk(self.root / "out", fail(number), at=k, calls=(*CHANGES, *READS))
        self.attempt(disk, None)

    @rule(what=st.sampled_from(["junk", "half a scan", "a file"]))
    def corrupt_staging(self, what: str) -> None:
        """Rubbish lies where the engine works."""
        staging = self.root / "out" / "l1.zarr.run" / "staging"
        staging.mkdir(parents=True, exist_ok=True)
        place = staging / f"1-{what.replace(' ', '-')}"
        if what == "a file":
            place.write_bytes(b"\0" * 100)
            return
        (place / "scan_025650").mkdir(parents=True, exist_ok=True)
        name = "zarr.json" if what == "half a scan" else "core"
        (place / "scan_025650" / name).write_bytes(b'{"zarr_format": 3')

    @rule()
    def second_writer(self) -> None:
        """Another run does the whole night while this one is in a scan."""
        other = OtherRun(Night(self.night.l0, {}, set()), self.l1)
        other.night.run = lambda l1: self.calibrate()  # type: ignore[method-assign,assignment,misc]
        calibrate(self.night.l0, self.l1, Settings(workers=1, **self.options), progress=other)  # type: ignore[arg-type]

    @precondition(lambda self: self.night.visible(self.l1))
    @rule(eta_f=st.sampled_from([0.7, 0.8]))
    def change_setting(self, eta_f: float) -> None:
        """Other settings over the same store are refused, and change nothing."""
        with pytest.raises(ConfigError, match="eta_f"):
            self.calibrate(eta_f=eta_f)

    @rule()
    def overwrite(self) -> None:
        """All is replaced by what other settings give."""
        new = self.nights[1] if self.night is self.nights[0] else self.nights[0]
        self.options = {} if new is self.nights[0] else {"pwv_clip": True}
        self.night = new
        self.calibrate(overwrite=True)

    @rule()
    def resume(self) -> None:
        """A run that goes through leaves all that can be there."""
        self.calibrate()
        self.night.check(self.l1)
        assert self.night.visible(self.l1) == self.night.good
        left = [p for p in (self.root / "out/l1.zarr.run/staging").iterdir() if p.is_dir()]
        assert left == []

    @precondition(lambda self: (self.l1 / "zarr.json").is_file())
    @rule()
    def check(self) -> None:
        """The store proves itself."""
        n, bad = check_store(self.l1)
        assert (n, bad) == (len(self.night.visible(self.l1)), [])

    @invariant()
    def every_visible_scan_is_whole(self) -> None:
        self.seen["steps"] += 1
        self.night.visible(self.l1)
        assert failed_scans(self.l1) <= self.night.good | self.night.failing


@pytest.mark.parametrize("rubbish", [False, True], ids=["a new store", "staging of a dead run"])
def test_a_store_that_cannot_be_opened_is_let_go(fast: Path, rubbish: bool) -> None:
    """Whichever call fails: no lock is held that would keep the staging folder from the next run, in this process too."""
    l1, staging, handles = fast / "l1.zarr", fast / "l1.zarr.run" / "staging", len(os.listdir("/proc/self/fd"))
    for k in itertools.count():
        if rubbish:
            (staging / "1-dead" / "scan_025650").mkdir(parents=True)
        with (
            FaultyDisk(fast, fail(errno.EIO), at=k, calls=(*CHANGES, *READS)) as disk,
            contextlib.suppress(OutputError),
        ):
            Publisher(l1, "l0.zarr", {}, overwrite=False).close()
        assert len(os.listdir("/proc/self/fd")) == handles, f"call {k}, {disk.names[-1]}: a file stays open"
        Publisher(l1, "l0.zarr", {}, overwrite=False).close()
        assert list(staging.iterdir()) == [], f"call {k}, {disk.names[-1]}"
        shutil.rmtree(l1)
        if len(disk.names) <= k:
            break
    assert k > 20


@pytest.fixture(scope="module")
def nights(module_folder: Path, night: Night) -> tuple[Night, Night]:
    """The night under two sets of settings."""
    other = make_night(module_folder / "other", pwv_clip=True)
    return night, Night(night.l0, other.reference, other.failing)


def test_any_order_of_events(nights: tuple[Night, Night], fast: Path, figure: Figure) -> None:
    examples, steps = count(12, 300), count(10, 20)
    seen = {"stores": 0, "steps": 0}
    machine = type("OneStore", (Store,), {"nights": nights, "folder": fast, "seen": seen})
    broken: list[BaseException] = []
    chosen = settings(
        max_examples=examples, stateful_step_count=steps, deadline=None, derandomize=not FULL, database=None,
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    try:
        run_state_machine_as_test(machine, settings=chosen)
    except Exception as error:
        broken.append(error)
    tried = f"{seen['stores']} stores, {seen['steps']} events"
    figure("P1", f"orders of events that leave a scan neither whole nor absent ({tried})", len(broken), 0)
    if broken:
        raise broken[0]
    assert seen["steps"] > 3 * examples
