"""What the host did in place of a device, counted by reason: notes for the report of a scan."""

from __future__ import annotations

import threading
from collections import Counter
from typing import Final

MOST_REASONS: Final = 4
"""Reasons that the report of a scan names."""


class Fallbacks:
    """``what`` says what is counted, in the plural, and what the host did with it; the threads of a scan share it."""

    def __init__(self, setting: str, what: str) -> None:
        self._setting, self._what = setting, what
        self._reasons: Counter[str] = Counter()
        self._lock = threading.Lock()

    def add(self, reason: str) -> None:
        """Count one."""
        with self._lock:
            self._reasons[reason] += 1

    def notes(self) -> list[str]:
        """How many, for the most frequent reasons."""
        reasons = sorted(self._reasons.items(), key=lambda item: (-item[1], item[0]))
        if (more := sum(n for _, n in reasons[MOST_REASONS:])) > 0:
            reasons = [*reasons[:MOST_REASONS], ("other reasons", more)]
        return [f"{self._setting}: {n} {self._what}: {reason}" for reason, n in reasons]
