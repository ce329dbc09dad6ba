"""The CUDA device keeps to the rules under which the simulated one is true to it; both have the calls of the protocol."""

from __future__ import annotations

import ast
import inspect
from pathlib import Path

import pytest

import calib_gpu
from calib_gpu.backend.device import Device
from calib_gpu.testing.sim import SimDevice
from device_rules import OF_CUDA, OF_LOOP, OF_USERS, Rule
from device_tiles import CASES, run_lane, tiles_on

ROOT = Path(calib_gpu.__file__).parent
CUDA, LOOP = "backend/cupy_.py", "stream.py"
USERS = ("stream.py", "backend/on_device.py", "backend/chi2_launches.py")
MOST_LINES = 260
CHECKS = [
    *((CUDA, rule) for rule in OF_CUDA),
    *((user, rule) for user in USERS for rule in OF_USERS),
    *((LOOP, rule) for rule in OF_LOOP),
]


def text(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


@pytest.mark.parametrize(("name", "rule"), CHECKS, ids=lambda x: x if isinstance(x, str) else x.__name__)
def test_a_rule_is_kept(name: str, rule: Rule) -> None:
    assert rule(text(name)) == []


@pytest.mark.parametrize("rule", OF_CUDA | OF_USERS | OF_LOOP, ids=lambda rule: rule.__name__)
def test_a_broken_rule_is_seen(rule: Rule) -> None:
    assert rule((OF_CUDA | OF_USERS | OF_LOOP)[rule]) != []


def methods(source: str, name: str) -> dict[str, list[str]]:
    """Public methods of a class and the names of what they take."""
    (found,) = (n for n in ast.walk(ast.parse(source)) if isinstance(n, ast.ClassDef) and n.name == name)
    return {
        f.name: [a.arg for a in (*f.args.args, *f.args.kwonlyargs)]
        for f in found.body
        if isinstance(f, ast.FunctionDef) and not f.name.startswith("_")
    }


def test_both_devices_have_the_calls_of_the_protocol() -> None:
    protocol = methods(text("backend/device.py"), "Device")
    for name, of in (("CupyDevice", text(CUDA)), ("SimDevice", text("testing/sim.py"))):
        device = methods(of, name)
        assert {call: device.get(call) for call in protocol} == protocol
    assert inspect.signature(SimDevice.launch).parameters.keys() == inspect.signature(Device.launch).parameters.keys()


def test_the_cuda_device_stays_small_and_decides_nothing() -> None:
    """What no test without a GPU can run has to be read: about 250 lines, and no ``if`` outside of the choice of a kernel."""
    source = text(CUDA)
    assert len(source.splitlines()) <= MOST_LINES
    (device,) = (n for n in ast.walk(ast.parse(source)) if isinstance(n, ast.ClassDef) and n.name == "CupyDevice")
    deciding = {f.name for f in device.body for n in ast.walk(f) if isinstance(n, ast.If | ast.While | ast.IfExp)}
    assert deciding <= {"__init__", "launch", "_function"}


def test_nothing_is_allocated_while_tiles_run() -> None:
    device = SimDevice(threads=True)
    with tiles_on(device, 2) as tiles:
        before = device.n_allocation
        wrong: list[str] = []
        run_lane(tiles, CASES[0], wrong)
        run_lane(tiles, CASES[1], wrong)
        assert device.n_allocation == before == 2 + 8  # to load the kernel, and two slots
        assert wrong == []
        tiles.free()
