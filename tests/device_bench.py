"""A simulated device with a few streams, blocks and events of short names, for tests of the checker."""

from __future__ import annotations

import numpy as np

from calib_gpu.backend.device import View
from calib_gpu.backend.kernels import Elementwise
from calib_gpu.testing.sim import SimDevice
from calib_gpu.testing.sim_memory import SimHostBlock

TOUCH = Elementwise("touch", "raw uint8 of", "raw uint8 to", "")


class Bench:
    """Streams a, b, c; device blocks x, y, z; page-locked block h; events e, f."""

    def __init__(self, device: SimDevice | None = None) -> None:
        self.device = device or SimDevice(check="record", execute=lambda *_: None)
        self.streams = {name: self.device.stream(name) for name in "abc"}
        self.blocks = {name: self.device.empty(8) for name in "xyz"} | {"h": self.device.pinned(8)}
        self.events = {name: self.device.event() for name in "ef"}

    def run(self, stream: str, of: str, to: str) -> None:
        """Read one block, write another."""
        views = [View(self.blocks[name], 0, (8,), np.dtype(np.uint8)) for name in (of, to)]
        reads, writes = ([self.blocks[name]] for name in (of, to))
        self.device.launch(TOUCH, (8,), views, self.streams[stream], reads=reads, writes=writes)

    def record(self, event: str, stream: str) -> None:
        self.device.record(self.events[event], self.streams[stream])

    def wait(self, stream: str, event: str) -> None:
        self.device.wait(self.streams[stream], self.events[event])

    def sync(self, event: str) -> None:
        self.device.synchronize(self.events[event])

    def upload(self, stream: str, to: str = "x") -> None:
        self.device.upload(self.blocks[to], self.host, 8, self.streams[stream])

    def download(self, stream: str, of: str = "x") -> None:
        self.device.download(self.host, self.blocks[of], 8, self.streams[stream])

    @property
    def host(self) -> SimHostBlock:
        block = self.blocks["h"]
        assert isinstance(block, SimHostBlock)
        return block
