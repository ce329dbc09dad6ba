"""The CUDA device, through CuPy. Nothing here decides anything: it is :class:`calib_gpu.backend.device.Device`, call by call.

Memory comes from cudaMalloc and cudaHostAlloc themselves and goes back there: CuPy's pools hand blocks from stream to
stream without an event, and round page-locked blocks up to powers of two.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import cupy
import numpy as np
from cupy.cuda import driver, runtime
from numpy.typing import NDArray

from calib_gpu.backend import kernels
from calib_gpu.backend.device import Argument, View
from calib_gpu.backend.kernels import Elementwise, Kernel, Reduction
from calib_gpu.errors import ConfigError, DeviceLost, OutOfDeviceMemory

OUT_OF_MEMORY = 2
"""cudaErrorMemoryAllocation: the only error after which a device can go on."""


@contextmanager
def _cuda_errors() -> Iterator[None]:
    """CUDA errors as those of the engine. All but a failed allocation stay with the process for good."""
    try:
        yield
    except (runtime.CUDARuntimeError, driver.CUDADriverError) as error:
        if error.status == OUT_OF_MEMORY:
            raise OutOfDeviceMemory("out of GPU memory", value=str(error)) from None
        raise DeviceLost("the GPU reports an error", value=str(error), fix="run again; calib-gpu selftest") from None


class DeviceBlock:
    """A block of device memory."""

    def __init__(self, nbytes: int) -> None:
        with _cuda_errors():
            self.memory = cupy.cuda.Memory(nbytes)
        self.nbytes = nbytes

    @property
    def address(self) -> int:
        """Device address."""
        return int(self.memory.ptr)


class PinnedBlock:
    """A block of page-locked host memory."""

    def __init__(self, nbytes: int) -> None:
        with _cuda_errors():
            self.memory = cupy.cuda.PinnedMemory(nbytes)
        self.nbytes = nbytes
        pointer = cupy.cuda.PinnedMemoryPointer(self.memory, 0)
        self._bytes = np.frombuffer(pointer, np.uint8, nbytes)

    @property
    def address(self) -> int:
        """Host address."""
        return int(self.memory.ptr)

    def write(self) -> NDArray[np.uint8]:
        """The bytes."""
        return self._bytes

    read = write


class CupyDevice:
    """The first visible GPU (``CUDA_VISIBLE_DEVICES`` chooses it).

    Raises
    ------
    ConfigError
        There is none that can be used.
    """

    name = "cupy"

    def __init__(self) -> None:
        try:
            n = runtime.getDeviceCount()
        except runtime.CUDARuntimeError as error:
            raise _no_gpu(str(error)) from None
        if n == 0:
            raise _no_gpu("no device is visible")
        cupy._core.set_reduction_accelerators(())  # the order of sums is that of the kernels, not of a library's choice
        with _cuda_errors():
            self._properties = runtime.getDeviceProperties(0)
        self._byte = DeviceBlock(256)  # what reductions take their index range from
        self._compiled: dict[tuple[str, str, str], Callable[..., Any]] = {}
        self._compiling = threading.Lock()

    def describe(self) -> str:
        """GPU, compute capability, CuPy and driver."""
        p = self._properties
        return (
            f"CuPy {cupy.__version__} on {p['name'].decode()} (compute capability {p['major']}.{p['minor']}, "
            f"{p['totalGlobalMem'] / 2**30:.0f} GiB, driver CUDA {runtime.driverGetVersion()})"
        )

    def stream(self, name: str) -> cupy.cuda.Stream:
        """A non-blocking stream: it does not wait for the default stream."""
        with _cuda_errors():
            return cupy.cuda.Stream(non_blocking=True)

    def event(self) -> cupy.cuda.Event:
        """An event for which the host sleeps, not spins."""
        with _cuda_errors():
            return cupy.cuda.Event(block=True, disable_timing=True)

    def pinned(self, nbytes: int) -> PinnedBlock:
        """Page-locked host memory."""
        return PinnedBlock(nbytes)

    def empty(self, nbytes: int) -> DeviceBlock:
        """Device memory."""
        return DeviceBlock(nbytes)

    def release(self, block: Any) -> None:
        """Free a block: it lives as long as its memory is referred to."""
        with _cuda_errors():
            block.memory = None

    def upload(self, target: Any, source: Any, nbytes: int, stream: Any) -> None:
        """Host to device, asynchronous."""
        with _cuda_errors():
            runtime.memcpyAsync(target.address, source.address, nbytes, runtime.memcpyHostToDevice, stream.ptr)

    def download(self, target: Any, source: Any, nbytes: int, stream: Any) -> None:
        """Device to host, asynchronous."""
        with _cuda_errors():
            runtime.memcpyAsync(target.address, source.address, nbytes, runtime.memcpyDeviceToHost, stream.ptr)

    def copy(self, target: Any, source: Any, nbytes: int, stream: Any) -> None:
        """Device to device, asynchronous."""
        with _cuda_errors():
            runtime.memcpyAsync(target.address, source.address, nbytes, runtime.memcpyDeviceToDevice, stream.ptr)

    def clear(self, view: View, stream: Any) -> None:
        """Zero bytes."""
        with _cuda_errors():
            runtime.memsetAsync(_address(view), 0, view.size * view.dtype.itemsize, stream.ptr)

    def launch(
        self, kernel: Kernel, size: tuple[int, ...], arguments: Sequence[Argument], stream: Any, *,
        reads: Sequence[Any], writes: Sequence[Any],
    ) -> None:  # fmt: skip
        """Run a kernel; ``reads`` and ``writes`` are for devices that check them."""
        types = [a.dtype.name for a in arguments if isinstance(a, View)]
        run = self._function(kernel, types)
        with _cuda_errors():
            if isinstance(kernel, Elementwise):
                run(*map(_array, arguments), size=size[0], stream=stream)
            elif isinstance(kernel, Reduction):
                rows, columns = size
                pointer = cupy.cuda.MemoryPointer(self._byte.memory, 0)
                like = cupy.ndarray((columns, rows), np.uint8, pointer, strides=(0, 0))
                run(like, *map(_array, arguments), axis=0, stream=stream)
            else:
                grid = (-(-size[0] // kernels.BLOCK), size[1])
                values = tuple(np.uint64(_address(a)) if isinstance(a, View) else a for a in arguments)
                run(grid, (kernels.BLOCK,), values, stream=stream)

    def _function(self, kernel: Kernel, types: list[str]) -> Callable[..., Any]:
        """The kernel, ready to run; compiled once for each type of counts and spectra."""
        raw = not isinstance(kernel, Elementwise | Reduction)
        key = (kernel.name, types[0] if raw else "", types[5] if raw else "")
        with self._compiling:
            if key not in self._compiled:
                with _cuda_errors():
                    self._compiled[key] = _compile(kernel, *key[1:])
            return self._compiled[key]

    def record(self, event: Any, stream: Any) -> None:
        """Mark a place in a stream."""
        with _cuda_errors():
            event.record(stream)

    def wait(self, stream: Any, event: Any) -> None:
        """A stream waits for an event."""
        with _cuda_errors():
            stream.wait_event(event)

    def synchronize(self, event: Any) -> None:
        """The host waits for an event."""
        with _cuda_errors():
            event.synchronize()

    def free_bytes(self) -> int:
        """Free device memory."""
        with _cuda_errors():
            return int(runtime.memGetInfo()[0])

    def close(self) -> None:
        """Blocks go back as their owners do."""
        self._byte.memory = None


def _no_gpu(reason: str) -> ConfigError:
    return ConfigError(
        "no usable GPU", array="backend", value="cupy", rule=reason,
        fix="see calib-gpu doctor; --backend numpy runs without one",
    )  # fmt: skip


def _address(view: View) -> int:
    block: Any = view.block
    return int(block.address) + view.offset


def _array(argument: Argument) -> Any:
    """A view as the flat array that kernels index; scalars as they are."""
    if not isinstance(argument, View):
        return argument
    block: Any = argument.block
    return cupy.ndarray((argument.size,), argument.dtype, cupy.cuda.MemoryPointer(block.memory, argument.offset))


def device_bytes(block: DeviceBlock, offset: int, nbytes: int) -> Any:
    """Some bytes of a block as a CuPy array, for libraries that take arrays and need a context in the calling thread."""
    with _cuda_errors():
        runtime.setDevice(0)
    return _array(View(block, offset, (nbytes,), np.dtype(np.uint8)))


def _compile(kernel: Kernel, counts: str, spectrum: str) -> Any:
    if isinstance(kernel, Elementwise):
        return elementwise(kernel)
    if isinstance(kernel, Reduction):
        return reduction(kernel)
    module = cupy.RawModule(code=kernels.tile_source(counts, spectrum), options=kernels.OPTIONS)
    return module.get_function(kernel.name).kernel  # its own call takes no stream


def elementwise(kernel: Elementwise) -> Any:
    """The CuPy kernel of a row."""
    return cupy.ElementwiseKernel(
        kernel.inputs,
        kernel.outputs,
        kernel.operation,
        kernel.name,
        preamble=kernels.preamble(),
        options=kernels.OPTIONS,
    )


def reduction(kernel: Reduction) -> Any:
    """The CuPy kernel of a row."""
    return cupy.ReductionKernel(
        kernel.inputs, kernel.outputs, kernel.map_expression, kernel.reduce, kernel.result, kernel.identity, kernel.name,
        reduce_type=kernel.reduce_type, preamble=kernels.preamble(), options=kernels.OPTIONS,
    )  # fmt: skip
