"""P9: several processes over one output give what one gives; each scan is published once; nobody waits for the dead."""

from __future__ import annotations

import os
import random
import shutil
import signal
import time
from collections import Counter
from pathlib import Path

import pytest

from calib_gpu.errors import Exit
from calib_gpu.pipeline import Progress
from calib_gpu.scan_report import ScanReport
from invariant import Figure, Night, count, fault, make_night
from processes import context, run_in_child


@pytest.fixture(scope="module")
def shared(module_folder: Path) -> Night:
    """A night of five scans, one of which fails."""
    return make_night(module_folder / "shared", 4)


def test_two_to_four_writers(shared: Night, fast: Path, figure: Figure) -> None:
    here, rng = context(), random.Random(6)
    rounds, killed, waits, published, wrong = count(12, 50), 0, [0.0], Counter[int](), list[str]()
    begin = time.perf_counter()
    shared.run(fast / "alone.zarr")
    alone = time.perf_counter() - begin
    for k in range(rounds):
        l1, renames = fast / f"{k}.zarr", fast / f"{k}.txt"
        begun = [here.Event() for _ in range(2 + k % 3)]
        children = [
            here.Process(
                target=run_in_child,
                args=(shared.l0, l1, event),
                kwargs={"renames": renames, "workers": rng.choice((1, 2))},
            )
            for event in begun
        ]
        for child in children:
            child.start()
        assert all(event.wait(30) for event in begun)
        victim = children[0] if k % 2 else None
        if victim is not None:
            time.sleep(rng.uniform(0.0, 0.5 * alone))
            victim.kill()
        begin = time.perf_counter()
        for child in children:
            child.join(60)
            assert child.exitcode is not None, "it waits for ever"
        if victim is not None and victim.exitcode == -signal.SIGKILL:
            killed += 1
            waits.append(time.perf_counter() - begin)
        assert {child.exitcode for child in children if child is not victim} == {int(Exit.SOME)}
        wrong += fault(shared.check_whole, l1)
        times = Counter(line for line in renames.read_text().splitlines() if line.startswith("scan_"))
        published.update(times.values())
        assert victim is not None or set(times) == shared.good
        shutil.rmtree(l1)
    right = rounds - len(wrong)
    figure("P9", f"rounds, of {rounds}, whose L1 is that of one writer ({killed} with a writer killed)", right, rounds)
    assert wrong == []
    figure("P9", "scans published more than once", sum(n for times, n in published.items() if times > 1), 0)
    figure("P9", "longest seconds that the others took after a writer was killed", round(max(waits), 2), 10.0)
    assert set(published) == {1}
    assert killed > 0
    assert max(waits) <= 10.0


class Meanwhile(Progress):
    """Runs the whole night in the midst of a scan of another run."""

    def __init__(self, night: Night, l1: Path) -> None:
        self.night, self.l1, self.other = night, l1, list[str]()

    def begin(self, scan: str, samples: int) -> None:
        if not self.other:
            self.other = [line.status for line in self.night.run(self.l1).scans]

    def end(self, report: ScanReport) -> None:
        pass


def test_another_run_publishes_all_in_the_midst(shared: Night, fast: Path) -> None:
    """The first run then has a finished scan for each that is there already: it is dropped, and no failure."""
    from calib_gpu import Settings
    from calib_gpu.pipeline import calibrate

    meanwhile = Meanwhile(shared, fast / "l1.zarr")
    report = calibrate(shared.l0, fast / "l1.zarr", Settings(workers=1), progress=meanwhile)
    assert Counter(meanwhile.other) == {"ok": 4, "failed": 1}
    assert Counter(line.status for line in report.scans) == {"ok": 4, "failed": 1}
    shared.check_whole(fast / "l1.zarr")


def test_another_run_makes_the_store_while_it_is_looked_at(fast: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first file of a store appears between two looks: it is a store of this engine, and none of a stranger."""
    from calib_gpu.store import disk
    from calib_gpu.store.publish import Publisher

    l1, entries = fast / "l1.zarr", disk.entries
    l1.mkdir()

    def other_run_first(path: Path) -> list[str]:
        if path == l1:
            monkeypatch.setattr(disk, "entries", entries)
            Publisher(l1, "l0.zarr", {}, overwrite=False).close()
        return entries(path)

    monkeypatch.setattr(disk, "entries", other_run_first)
    Publisher(l1, "l0.zarr", {}, overwrite=False).close()
    assert disk.entries is entries, "nothing came between"


def test_a_stopped_writer_is_not_waited_for(shared: Night, fast: Path) -> None:
    """A process that hangs with its locks held (SIGSTOP) neither hinders others nor loses what it staged."""
    here = context()
    begun = here.Event()
    child = here.Process(target=run_in_child, args=(shared.l0, fast / "l1.zarr", begun), kwargs={"workers": 1})
    child.start()
    assert begun.wait(30)
    time.sleep(0.05)
    assert child.pid is not None
    os.kill(child.pid, signal.SIGSTOP)
    try:
        shared.run(fast / "l1.zarr")
        shared.check_whole(fast / "l1.zarr")
    finally:
        os.kill(child.pid, signal.SIGCONT)
        child.join(60)
    assert child.exitcode == int(Exit.SOME)
    shared.check_whole(fast / "l1.zarr")
