"""Which operation is ordered after which: vector clocks over streams and host threads, and the accesses to each block.

An actor is a stream or a host thread. Each counts its own accesses; what it knows of the others' counts is its clock, and
comes from events, waits, synchronisations and locks. Two accesses to one block, one of them a write, must be ordered: the
later actor must know the count of the earlier access. The method is that of FastTrack and of PyTorch's CUDA sanitizer;
hazards are per whole block. It sees what would go wrong under other schedules than the one that is run.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from dataclasses import dataclass, field

Clock = dict[str, int]

_HERE = os.path.dirname(__file__)
_FRAMES = 3
"""Lines of the stack that a message shows."""


class OrderFault(AssertionError):
    """An operation is not ordered after one that it must follow, or does what a device does not allow."""


def where() -> str:
    """The innermost lines of the stack outside of this package."""
    frame, lines = sys._getframe(1), list[str]()
    while frame is not None and len(lines) < _FRAMES:
        code = frame.f_code
        if os.path.dirname(code.co_filename) != _HERE and not code.co_filename.endswith(
            ("contextlib.py", "threading.py")
        ):
            lines.append(f"{os.path.basename(code.co_filename)}:{frame.f_lineno} {code.co_name}")
        frame = frame.f_back  # type: ignore[assignment]
    return " < ".join(lines)


def join(clock: Clock, other: Clock) -> None:
    """Know what the other knows, too."""
    for actor, count in other.items():
        if count > clock.get(actor, 0):
            clock[actor] = count


@dataclass(frozen=True)
class Access:
    """One access to a block: the actor, its count, what it was and where it was asked for."""

    actor: str
    count: int
    what: str
    where: str

    def __str__(self) -> str:
        return f"{self.what} [{self.actor}] at {self.where}"


@dataclass
class History:
    """The accesses to a block that later ones must be ordered after: the last write, and reads since then by actor."""

    write: Access | None = None
    reads: dict[str, Access] = field(default_factory=dict)


class Order:
    """The clocks of all actors; the histories lie with the blocks."""

    def __init__(self) -> None:
        self._clocks: dict[str, Clock] = {}

    def clock(self, actor: str) -> Clock:
        """What an actor knows."""
        return self._clocks.setdefault(actor, {})

    def known(self, actor: str) -> bool:
        """Whether an actor has been seen."""
        return actor in self._clocks

    def know(self, actor: str, clock: Clock) -> None:
        """The actor goes on after all that is in a clock."""
        join(self.clock(actor), clock)

    def access(self, actor: str, what: str, reads: Iterable[History], writes: Iterable[History]) -> list[str]:
        """Note an access; what it is not ordered after, in words."""
        clock = self.clock(actor)
        clock[actor] = clock.get(actor, 0) + 1
        here, faults = Access(actor, clock[actor], what, where()), []

        def check(other: Access | None) -> None:
            if other is not None and other.count > clock.get(other.actor, 0):
                faults.append(f"{here} is not ordered after {other}")

        for history in reads:
            check(history.write)
            history.reads[actor] = here
        for history in writes:
            check(history.write)
            for read in history.reads.values():
                check(None if read is here else read)
            history.write, history.reads = here, {}
        return faults
