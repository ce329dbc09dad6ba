"""Whatever keeps the order is needed: each mutant that loses, moves or mistakes a piece of it is caught.

``stream.py`` and the synchronous calls of ``backend/on_device.py``: each ``wait``, ``record``, ``synchronize`` and ``clear``
is left out, each ``record`` comes one statement earlier, each event and stream is mistaken for the others of the slot.
A mutant is caught by the checker, by wrong bytes or by a failure. None is redundant: what is deleted without a consequence
should not be there.
"""

from __future__ import annotations

import ast
import inspect
from functools import partial

import pytest

from calib_gpu import stream
from calib_gpu.backend import on_device
from calib_gpu.testing.schedule import Schedule, stragglers
from calib_gpu.testing.sim import EAGER
from device_tiles import STREAMS
from mutant_runs import OF_DEVICE, OF_STREAM, device_wrong, results, tiles_wrong
from mutants import Mutant


def test_there_are_mutants() -> None:
    assert len(OF_STREAM) >= 36
    assert len(OF_DEVICE) >= 6
    kinds = {m.name.split("|")[0].split()[0] for m in OF_STREAM}
    assert kinds == {"without", "one", "event", "stream"}


@pytest.mark.parametrize("schedule", [EAGER, *stragglers(STREAMS)], ids=str)
def test_what_is_not_mutated_passes(schedule: Schedule) -> None:
    assert not tiles_wrong(stream, schedule, "raise")
    assert results(on_device, schedule) == results(on_device, EAGER)


def test_a_module_is_not_broken_by_being_copied() -> None:
    """Else every mutant would be caught for nothing."""
    for module, wrong in ((stream, partial(tiles_wrong, schedule=EAGER, check="raise")), (on_device, device_wrong)):
        assert not wrong(Mutant("nothing changed", ast.parse(inspect.getsource(module))).module(module))


def test_the_synchronous_calls_pass_where_any_allocation_fails() -> None:
    assert not device_wrong(on_device)


@pytest.mark.parametrize("mutant", OF_STREAM, ids=lambda m: m.name)
def test_a_mutant_of_the_tile_loop_is_caught(mutant: Mutant) -> None:
    """By the checker in an eager run (which results alone would pass), or by the results of a straggler."""
    module = mutant.module(stream)
    assert any(tiles_wrong(module, schedule, "raise") for schedule in [EAGER, *stragglers(STREAMS)])


@pytest.mark.parametrize("mutant", OF_DEVICE, ids=lambda m: m.name)
def test_a_mutant_of_the_synchronous_calls_is_caught(mutant: Mutant) -> None:
    assert device_wrong(mutant.module(on_device))


def test_schedules_alone_catch_them_too() -> None:
    """Without the checker, by results: the assumption of the checker, that launches say what they touch, is tested so."""

    def by_results(mutant: Mutant) -> bool:
        module = mutant.module(stream)
        schedules = [*stragglers(STREAMS), *(Schedule("swarm", seed) for seed in range(8))]
        return any(tiles_wrong(module, schedule, "off") for schedule in schedules)

    missed = [m.name for m in OF_STREAM if not by_results(m)]
    assert missed == list(NO_RESULT)


NO_RESULT = {
    "without | release: self._tiles.synchronize(self._slot)": "nobody reads what a failed tile gives; the checker asks for "
    "it, for its memory must not be given back under a copy",
}
"""Mutants that no result shows, and why."""
