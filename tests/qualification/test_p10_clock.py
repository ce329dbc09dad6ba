"""P10: the clock of the host changes nothing; times in the data that are out of order are paired right or refused."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import zarr

from calib_gpu import Settings
from calib_gpu.pipeline import calibrate
from invariant import Figure, Night, tiny_scan, tree

DAY = 86400.0


def jumping() -> Iterator[float]:
    return (1e9 + (DAY if k % 2 else -DAY) * (k % 7) for k in itertools.count())


CLOCKS: dict[str, Callable[[], Iterator[float]]] = {
    "jumps by days": jumping,
    "frozen": lambda: itertools.repeat(1e9),
    "backwards": lambda: itertools.count(1e9, -1.0),
    "before 1970": lambda: itertools.count(-1e9, 0.001),
    "at the end of 32 bits": lambda: itertools.count(2.0**31 - 1.0, 1.0),
}


@pytest.mark.parametrize("clock", CLOCKS.values(), ids=CLOCKS)
def test_the_clock_of_the_host(
    night: Night, fast: Path, figure: Figure, monkeypatch: pytest.MonkeyPatch, clock: Callable[[], Iterator[float]],
    request: pytest.FixtureRequest,
) -> None:  # fmt: skip
    ticks, asked = clock(), 0

    def now() -> float:
        nonlocal asked
        asked += 1
        return next(ticks)

    with monkeypatch.context() as patch:
        for name in ("time", "perf_counter", "monotonic", "process_time", "thread_time"):
            patch.setattr(time, name, now)
        for name in ("time_ns", "perf_counter_ns", "monotonic_ns"):
            patch.setattr(time, name, lambda: int(now() * 1e9))
        night.run(fast / "l1.zarr", workers=2)
        night.run(fast / "l1.zarr", workers=2)  # a rerun, too, does nothing by it
    found = tree(fast / "l1.zarr")
    differ = sum(found.get(name) != night.reference.get(name) for name in found.keys() | night.reference.keys())
    figure("P10", f"differing files, clock {request.node.callspec.id} (asked {asked} times)", differ, 0)
    assert differ == 0
    assert asked > 10


@pytest.mark.parametrize("zone", ["UTC", "Pacific/Kiritimati", "America/St_Johns", "nonsense"])
def test_the_time_zone(night: Night, fast: Path, monkeypatch: pytest.MonkeyPatch, zone: str) -> None:
    monkeypatch.setenv("TZ", zone)
    time.tzset()
    try:
        night.run(fast / "l1.zarr")
    finally:
        monkeypatch.undo()
        time.tzset()
    night.check_whole(fast / "l1.zarr")


ORDERS = [(4, 3, 2, 1, 0), (3, 1, 4, 0, 2), (2, 0, 1, 4, 3), (1, 2, 3, 4, 0)]


MODES = tiny_scan(25650).source["sobsmode"]


def test_subscans_out_of_order(fast: Path, figure: Figure) -> None:
    """Each ON is paired with the OFF that is nearest in time, wherever in the array the two lie."""
    right = 0
    for k, order in enumerate(ORDERS):
        scan = tiny_scan(25650)
        along = list(order)
        scan.counts = scan.counts[..., along]
        for name, values in scan.source.items():
            if isinstance(values, list):
                scan.source[name] = [values[i] for i in along]
            elif np.ndim(values) and np.shape(values)[-1] == len(along):
                scan.source[name] = values[..., along]
        mjd = np.asarray(scan.source["mjd"])
        off = [i for i, mode in enumerate(scan.source["sobsmode"]) if mode.endswith("OFF")]
        on = [i for i, mode in enumerate(scan.source["sobsmode"]) if mode.endswith("ON")]
        expected = {i: min(off, key=lambda j: abs(mjd[j] - mjd[i])) for i in on}
        report = calibrate(scan.store(fast / f"{k}-l0.zarr"), fast / f"{k}.zarr", Settings(workers=1))
        assert report.failures == []
        l1 = zarr.open_group(str(fast / f"{k}.zarr"), mode="r")["scan_025650"]
        weight = l1["ref_weight"][...]
        ref = np.take_along_axis(l1["ref_index"][...], weight.argmax(axis=1)[:, None], axis=1)[:, 0]
        found = dict(zip(l1["on_index"][...].tolist(), ref.tolist(), strict=True))
        assert found == expected
        place = {s: n for n, s in enumerate(i for i, mode in enumerate(MODES) if mode.endswith("ON"))}
        for s, index in enumerate(l1["on_index"][...].tolist()):
            np.testing.assert_allclose(l1["spectra"][..., s], scan.truth["ta"][..., place[along[index]]], atol=1e-6)
        right += 1
    figure("P10", f"orders of subscans, of {len(ORDERS)}, that are paired by time", right, len(ORDERS))


@pytest.mark.parametrize("times", ["equal", "one is NaN", "all are NaN", "infinite", "far away"])
def test_times_that_tell_nothing(fast: Path, times: str) -> None:
    """Refused by name, or paired with an OFF of the scan, the same in every run."""
    scan = tiny_scan(25650)
    mjd = np.array(scan.source["mjd"])
    if times == "equal":
        mjd[:] = mjd[0]
    elif times == "far away":
        mjd[1] = 1e300
    else:
        mjd[slice(None) if times == "all are NaN" else 2] = np.inf if times == "infinite" else np.nan
    scan.source["mjd"] = mjd
    l0 = scan.store(fast / "l0.zarr")
    reports = [calibrate(l0, fast / f"{k}.zarr", Settings(workers=k + 1)) for k in range(2)]
    assert reports[0].scans[0].digest == reports[1].scans[0].digest
    if times == "equal":
        l1 = zarr.open_group(str(fast / "0.zarr"), mode="r")["scan_025650"]
        assert set(l1["ref_index"][...][l1["ref_weight"][...] > 0].tolist()) <= {0, 3}
        np.testing.assert_allclose(l1["spectra"][...], scan.truth["ta"], atol=1e-6)
    else:
        (failed,) = reports[0].failures
        assert "mjd" in failed.message, failed.message
        assert failed.error != "InternalError"
