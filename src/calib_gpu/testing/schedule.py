"""The order in which a simulated device runs what its streams hold: any that stream order and events allow.

eager      at once, as soon as it may
lazy       only what a synchronisation needs, as late as possible
straggler  some streams lazily, the others eagerly: every subset finds what one of them being slow would show
random     at each step, with probability 1/2, one operation of any stream
swarm      the same with a probability drawn once for the run: long bursts, long delays
"""

from __future__ import annotations

import itertools
import os
import random
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

POLICIES = ("eager", "lazy", "straggler", "random", "swarm")
SEED_VARIABLE = "CALIB_GPU_SIM_SEED"
"""Environment variable that replays a schedule: what a failure prints."""


@dataclass(frozen=True)
class Schedule:
    """A policy, the streams that straggle, the seed of what is drawn."""

    policy: str = "eager"
    seed: int = 0
    slow: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.policy}:{'+'.join(self.slow) if self.policy == 'straggler' else self.seed}"

    @classmethod
    def parse(cls, text: str) -> Schedule:
        """A schedule as :func:`str` writes it, e.g. ``straggler:upload+compute`` or ``swarm:17``."""
        policy, _, rest = text.partition(":")
        if policy not in POLICIES:
            raise ValueError(f"{text!r} is not a schedule: one of {', '.join(POLICIES)}")
        if policy == "straggler":
            return cls(policy, slow=tuple(filter(None, rest.split("+"))))
        return cls(policy, int(rest or 0))


def schedules(streams: Sequence[str], n_random: int) -> list[Schedule]:
    """Every subset of stragglers, and seeds, half random and half swarm; one alone if the environment names it."""
    replay = os.environ.get(SEED_VARIABLE)
    if replay:
        return [Schedule.parse(replay)]
    return stragglers(streams) + [Schedule(("random", "swarm")[seed % 2], seed) for seed in range(n_random)]


def stragglers(streams: Sequence[str]) -> list[Schedule]:
    """Every subset of the streams, none and all among them."""
    subsets = (c for n in range(len(streams) + 1) for c in itertools.combinations(streams, n))
    return [Schedule("straggler", slow=subset) for subset in subsets]


class Operation:
    """What a stream holds: something to run, or (``after``) a wait for an operation of any stream; or a mark."""

    __slots__ = ("after", "done", "run", "stream")

    def __init__(self, stream: str, run: Callable[[], None] | None = None, after: Operation | None = None) -> None:
        self.stream, self.run, self.after, self.done = stream, run, after, False


class Queues:
    """The queues of all streams, and who is next."""

    def __init__(self, schedule: Schedule) -> None:
        self._schedule, self._random = schedule, random.Random(schedule.seed)
        self._eagerness = self._random.random() if schedule.policy == "swarm" else 0.5
        self._queues: dict[str, deque[Operation]] = {}

    def add(self, stream: str) -> None:
        """A new stream."""
        self._queues[stream] = deque()

    def push(self, operation: Operation) -> None:
        """Append an operation to its stream; some may run now."""
        self._queues[operation.stream].append(operation)
        policy = self._schedule.policy
        if policy in ("eager", "straggler"):
            while ready := [s for s in self._ready() if s.partition("#")[0] not in self._schedule.slow]:
                self._run(ready[0])
        elif policy in ("random", "swarm"):
            while self._random.random() < self._eagerness and (ready := self._ready()):
                self._run(self._random.choice(ready))

    def run_until(self, operation: Operation) -> None:
        """Go on until an operation is done."""
        lazy = self._schedule.policy in ("lazy", "straggler")
        while not operation.done:
            self._run(self._needed(operation) if lazy else self._random.choice(self._ready()))

    def drain(self) -> None:
        """Run all that is left, in any order."""
        while ready := self._ready():
            self._run(self._random.choice(ready))

    def _ready(self) -> list[str]:
        return [s for s, q in self._queues.items() if q and (q[0].after is None or q[0].after.done)]

    def _run(self, stream: str) -> None:
        operation = self._queues[stream].popleft()
        operation.done = True
        if operation.run is not None:
            operation.run()

    def _needed(self, target: Operation) -> str:
        """The stream whose head must run first for an operation to be done; waits refer to the past, so there is one."""
        stream = target.stream
        while (after := self._queues[stream][0].after) is not None and not after.done:
            stream = after.stream
        return stream
