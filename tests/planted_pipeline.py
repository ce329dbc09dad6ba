"""A pipeline of three streams over two slots, into which one of nine faults can be planted."""

from __future__ import annotations

import numpy as np

from calib_gpu.backend.device import View
from calib_gpu.backend.kernels import Elementwise
from calib_gpu.testing.sim import SimDevice, SimStream

STREAMS = ("upload", "compute", "download")

PLANTED = [
    "compute does not wait for upload", "download does not wait for compute", "host reads before download done",
    "upload overwrites input in use", "compute overwrites output in download", "host refills pinned buffer in upload",
    "event recorded before the kernel", "wait on the wrong slot's event", "block released while another stream reads",
]  # fmt: skip

STEP = Elementwise("step", "raw float64 of, float64 by, float64 plus", "raw float64 to", "to[i] = of[i] * by + plus")


def step(kernel: object, size: tuple[int, ...], arguments: list[np.ndarray]) -> None:
    of, by, plus, to = arguments
    to[: size[0]] = of[: size[0]] * by + plus


def pipeline(
    device: SimDevice, planted: str = "", *, chunks: int = 8, slots: int = 2, outs: int = 4, lag: int = 3
) -> bool:
    """2 x + 1 of chunks through three streams, two slots and four output buffers; True if the result is right."""
    size, n = 4, 32
    up, compute, down = (device.stream(name) for name in ("upload", "compute", "download"))
    h_in = [device.pinned(n) for _ in range(slots)]
    d_in, d_out = ([device.empty(n) for _ in range(slots)] for _ in range(2))
    h_out = [device.pinned(n) for _ in range(outs)]
    e_up, e_compute, e_down = ([device.event() for _ in range(slots)] for _ in range(3))
    e_out = [device.event() for _ in range(outs)]
    data = np.random.default_rng(1).normal(size=(chunks, size))
    got, temporary = np.zeros_like(data), {}

    def run(of: object, by: float, plus: float, to: object, stream: SimStream = compute) -> None:
        views = [View(block, 0, (size,), np.dtype(np.float64)) for block in (of, to)]  # type: ignore[arg-type]
        arguments = (views[0], np.float64(by), np.float64(plus), views[1])
        device.launch(STEP, (size,), arguments, stream, reads=[of], writes=[to])  # type: ignore[list-item]

    def drain(i: int) -> None:
        if planted != "host reads before download done":
            device.synchronize(e_out[i % outs])
        got[i] = h_out[i % outs].read().view(np.float64)
        if i in temporary:
            device.release(temporary.pop(i))

    for i in range(chunks):
        k, o = i % slots, i % outs
        if planted != "host refills pinned buffer in upload":
            device.synchronize(e_up[k])
        h_in[k].write().view(np.float64)[:] = data[i]
        if planted != "upload overwrites input in use":
            device.wait(up, e_compute[k])
        device.upload(d_in[k], h_in[k], n, up)
        device.record(e_up[k], up)
        if planted != "compute does not wait for upload":
            device.wait(compute, e_up[k])
        if planted != "compute overwrites output in download":
            device.wait(compute, e_down[k])
        middle = temporary[i] = device.empty(n)
        if planted == "event recorded before the kernel":
            device.record(e_compute[k], compute)
        run(d_in[k], 2.0, 0.0, middle)
        elsewhere = planted == "block released while another stream reads"
        if not elsewhere:
            run(middle, 1.0, 1.0, d_out[k])
        if planted != "event recorded before the kernel":
            device.record(e_compute[k], compute)
        if planted != "download does not wait for compute":
            wrong = planted == "wait on the wrong slot's event"
            device.wait(down, e_compute[(k + 1) % slots if wrong else k])
        if elsewhere:
            run(middle, 1.0, 1.0, d_out[k], down)
            device.release(temporary.pop(i))
        device.download(h_out[o], d_out[k], n, down)
        device.record(e_down[k], down)
        device.record(e_out[o], down)
        if i >= lag:
            drain(i - lag)
    for i in range(max(0, chunks - lag), chunks):
        drain(i)
    device.close()
    return bool(np.array_equal(got, data * 2 + 1))
