"""The self-test as a whole: what was run, on what, and its lines."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from calib_gpu.backend import Backend, choose_backend
from calib_gpu.backend.on_device import DeviceBackend
from calib_gpu.selftest.checks import Check
from calib_gpu.selftest.kernels import compare_kernels
from calib_gpu.selftest.night import compare_night
from calib_gpu.selftest.rates import Rates, measure_rates
from calib_gpu.testing.sim import SimDevice

GB = 1e9


@dataclass(frozen=True)
class SelfTest:
    """Backend and why it was taken, the checks, the rates of its device (None: it has none), and how long it took (s)."""

    backend: str
    reason: str
    checks: list[Check]
    rates: Rates | None
    seconds: float


def run(name: str, note: Callable[[str], None] = lambda text: None) -> SelfTest:
    """The self-test of the backend of that name; ``note`` is told of each check when it is done."""
    begin = time.perf_counter()
    backend, reason = choose_backend(name)
    note(f"{backend.describe()} ({reason})")
    checks, rates = [], None
    try:
        with tempfile.TemporaryDirectory(prefix="calib-gpu-selftest-") as folder:
            for check in _checks(backend, Path(folder)):
                note(_line(check))
                checks.append(check)
        if backend.device is not None:
            rates = measure_rates(backend.device)
    finally:
        backend.close()
    return SelfTest(backend.describe(), reason, checks, rates, time.perf_counter() - begin)


def _checks(backend: Backend, folder: Path) -> Iterator[Check]:
    if backend.device is not None:
        yield from compare_kernels(backend)
        yield from compare_night(backend, folder)
        return
    yield Check("kernels and streams on a GPU", "not run", "there is no GPU")
    yield Check("rates of a GPU", "not run", "there is no GPU")
    simulated = DeviceBackend(SimDevice())
    for check in (*compare_kernels(simulated), *compare_night(simulated, folder)):
        yield replace(check, name=f"simulated device, {check.name}")


def _line(check: Check) -> str:
    return f"{check.status:8} {check.name}: {check.detail}"


def lines(result: SelfTest) -> Iterator[str]:
    """What is printed at the end."""
    if result.rates is not None:
        r = result.rates
        yield f"copy on the device {r.copy / GB:.0f} GB/s; tile kernel {r.kernel / GB:.0f} GB/s = {100 * r.of_copy:.0f} % of it"
        yield f"up {r.upload / GB:.1f} GB/s, down {r.download / GB:.1f} GB/s (page-locked)"
        yield (
            f"tile kernel {r.samples / GB:.1f}e9 samples/s; streamed {r.streamed / GB:.2f}e9 samples/s, "
            f"{r.overlap:.2f} times as fast as upload, kernel and download one after the other"
        )
    count = {status: sum(c.status == status for c in result.checks) for status in ("ok", "differs", "not run")}
    yield f"{count['ok']} ok, {count['differs']} differ, {count['not run']} not run, in {result.seconds:.1f} s"


def as_json(result: SelfTest) -> dict[str, Any]:
    """The same as a document."""
    return asdict(result)


def table(documents: Sequence[dict[str, Any]]) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Head and rows of the table of machines, from documents of :func:`as_json`."""
    head = (
        "GPU",
        "checks",
        "copy GB/s",
        "tile kernel GB/s",
        "of copy",
        "up GB/s",
        "down GB/s",
        "1e9 samples/s",
        "streamed",
        "overlap",
    )
    rows: list[tuple[str, ...]] = []
    for document in documents:
        found = Rates(**document["rates"])
        ok = sum(check["status"] == "ok" for check in document["checks"])
        rows.append(
            (
                document["backend"], f"{ok} of {len(document['checks'])} the same", f"{found.copy / GB:.0f}",
                f"{found.kernel / GB:.0f}", f"{100 * found.of_copy:.0f} %", f"{found.upload / GB:.1f}",
                f"{found.download / GB:.1f}", f"{found.samples / GB:.0f}", f"{found.streamed / GB:.2f}", f"{found.overlap:.2f}",
            )
        )  # fmt: skip
    return head, rows
