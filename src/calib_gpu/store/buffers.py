"""Memory that is used again."""

from __future__ import annotations

import threading

import numpy as np
from numpy.typing import NDArray


class Scratch(threading.local):
    """Reusable byte buffers of a thread, by name; they grow to the largest size that was asked for.

    Buffers of more than ``keep`` bytes are not held for the next time.
    """

    def __init__(self, keep: int = 1 << 62) -> None:
        self.keep, self.buffers = keep, dict[str, NDArray[np.uint8]]()

    def get(self, name: str, size: int) -> NDArray[np.uint8]:
        """A buffer of exactly ``size`` bytes; its content is undefined."""
        held = self.buffers.get(name)
        if held is None or held.size < size:
            held = np.empty(size, np.uint8)
            if size <= self.keep:
                self.buffers[name] = held
        return held[:size]
