"""The engine's kernels as the GPU gets them: source, PTX for any architecture, and that PTX run on the CPU.

Needs CuPy and NVRTC (no driver), to run also gcc. :func:`run_ptx` is an executor for
:class:`calib_gpu.testing.sim.SimDevice`: with it a whole run of the engine goes through device code.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calib_gpu.backend import kernels
from calib_gpu.backend.cupy_ import elementwise, reduction
from calib_gpu.backend.kernels import Elementwise, Kernel, Raw, Reduction, Specialisation
from calib_gpu.testing.cupy_source import (
    ArgumentType,
    ArrayType,
    ScalarType,
    cupy_options,
    elementwise_source,
    reduction_source,
)
from calib_gpu.testing.nvrtc import Compiled, compile_raw
from calib_gpu.testing.ptx import PtxKernel, carray, indexer

ELEMENTWISE_BLOCK = 128
REDUCTION_BLOCK = 512
"""Threads of a block, as CuPy launches them."""


def parameter_types(spec: Specialisation) -> list[ArgumentType]:
    """The types of a kernel's parameters, in order, as CuPy sees them when the engine launches it."""
    types: list[ArgumentType] = []
    for text in f"{spec.kernel.inputs}, {spec.kernel.outputs}".split(", "):
        *raw, kind, name = text.split()
        dtype = {"T": spec.counts, "U": spec.spectrum}.get(kind, kind)
        if name == "like":
            types.append(ArrayType(dtype, contiguous=False))
        elif raw or text in spec.kernel.outputs.split(", "):
            types.append(ArrayType(dtype))
        else:
            types.append(ScalarType(dtype))
    return types


def cuda_source(spec: Specialisation) -> str:
    """The full text that is compiled."""
    if isinstance(spec.kernel, Elementwise):
        return elementwise_source(elementwise(spec.kernel), parameter_types(spec))
    if isinstance(spec.kernel, Reduction):
        return reduction_source(reduction(spec.kernel), parameter_types(spec))
    return kernels.tile_source(spec.counts, spec.spectrum)


@functools.cache
def compiled(spec: Specialisation, arch: str, kind: str = "ptx") -> Compiled:
    """A specialisation for one architecture, with the options of the engine."""
    options = kernels.OPTIONS if isinstance(spec.kernel, Raw) else cupy_options(kernels.OPTIONS)
    return compile_raw(cuda_source(spec), arch, "cubin" if kind == "cubin" else "ptx", options)


@functools.cache
def ptx_kernel(spec: Specialisation, arch: str = "80") -> PtxKernel:
    """A specialisation, ready to run on the CPU."""
    return PtxKernel(compiled(spec, arch).text, spec.kernel.name)


def specialisation(kernel: Kernel, arguments: Sequence[Any]) -> Specialisation:
    """The specialisation that a launch with these arguments takes."""
    arrays = [a for a in arguments if isinstance(a, np.ndarray)]
    counts = arrays[0].dtype.name if kernel.typed else ""
    return Specialisation(kernel, counts, arrays[5].dtype.name if isinstance(kernel, Raw) else "")


def run_ptx(
    kernel: Kernel, size: tuple[int, ...], arguments: Sequence[Any], *, order: Any = "forward", arch: str = "80"
) -> None:
    """Run a kernel on arrays, as the CUDA device launches it; ``order`` is that of blocks and threads."""
    run = ptx_kernel(specialisation(kernel, arguments), arch)
    if isinstance(kernel, Elementwise):
        grid = -(-size[0] // ELEMENTWISE_BLOCK)
        run.run(grid, ELEMENTWISE_BLOCK, [*_parameters(arguments), indexer(size[0])], order=order)
    elif isinstance(kernel, Reduction):
        rows, columns = size
        stride = _block_stride(columns)
        like = np.lib.stride_tricks.as_strided(np.zeros(1, np.uint8), (rows * columns,), (0,))
        loops: list[Any] = [indexer(rows * columns), indexer(rows), np.int32(stride)]
        run.run(-(-rows // stride), REDUCTION_BLOCK, [carray(like), *_parameters(arguments), *loops], order=order)
    else:
        grid_x = -(-size[0] // kernels.BLOCK)
        run.run((grid_x, size[1]), kernels.BLOCK, list(arguments), order=order)


def _parameters(arguments: Sequence[Any]) -> list[Any]:
    """Arrays as CuPy's structs, scalars as they are."""
    return [carray(a.reshape(-1)) if isinstance(a, np.ndarray) else a for a in arguments]


def _block_stride(columns: int) -> int:
    """Rows that share a block of a reduction: CuPy's rule for arrays that are not contiguous along the rows."""
    at_most = max(1, REDUCTION_BLOCK // max(1, columns))
    return 1 << (at_most.bit_length() - 1)


def ptx_executor(order: str) -> Callable[[Kernel, tuple[int, ...], Sequence[NDArray[Any] | np.generic]], None]:
    """An executor for a simulated device whose blocks and threads run in some order."""
    return functools.partial(run_ptx, order=order)
