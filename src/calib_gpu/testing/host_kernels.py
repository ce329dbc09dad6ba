"""The engine's kernels compiled by g++, under the address and the undefined-behaviour sanitizer.

:func:`run_host` launches like :func:`calib_gpu.testing.compiled_kernels.run_ptx`: an executor for
:class:`calib_gpu.testing.sim.SimDevice`. Sums of reductions run in ascending order, not in CuPy's.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calib_gpu.backend import kernels
from calib_gpu.backend.kernels import Elementwise, Kernel, Reduction
from calib_gpu.testing import gxx
from calib_gpu.testing.kernel_models import parameters

_SHIM = """
#define __global__
#define CUDART_INF __builtin_inf()
struct HostDim { unsigned int x, y, z; };
[[maybe_unused]] static HostDim threadIdx, blockIdx, blockDim;
template <typename T> static inline T atomicAdd(T *at, T value) { T old = *at; *at += value; return old; }
struct HostIndexer { long long rows; long long size() const { return rows; } };
"""
_ELEMENTWISE = "for (long long i = 0; i < at_size[0]; ++i) {{ {operation} }}"
_REDUCTION = """
const HostIndexer _out_ind{{at_size[0]}};
for (long long _i = 0; _i < at_size[0]; ++_i) {{
  {type} total = {identity};
  for (int _J = 0; _J < int(at_size[1]); ++_J) {{
    const {type} a = total, b = {value};
    total = {reduce};
  }}
  const {type} a = total;
  auto &out = at_out[_i];
  {result};
}}
"""
_RAW = """
blockDim.x = {block};
for (blockIdx.y = 0; blockIdx.y < at_size[1]; ++blockIdx.y) {{
  for (blockIdx.x = 0; blockIdx.x < (at_size[0] + blockDim.x - 1) / blockDim.x; ++blockIdx.x) {{
    for (threadIdx.x = 0; threadIdx.x < blockDim.x; ++threadIdx.x) {{ {name}({arguments}); }}
  }}
}}
"""


def run_host(kernel: Kernel, size: tuple[int, ...], arguments: Sequence[Any]) -> None:
    """Run a kernel on arrays, which are changed in place.

    Raises
    ------
    SanitizerError
        It reads or writes beside its arrays, or does what C++ leaves undefined.
    """
    wanted = parameters(kernel)
    written = {text.split()[-1] for text in kernel.outputs.split(", ")}
    arrays: dict[str, NDArray[Any]] = {"at_size": np.array(size, np.int64)}
    results: dict[str, NDArray[Any]] = {}
    lines, counts = [], ""
    for argument, (name, dtype, is_array) in zip(arguments, wanted, strict=True):
        group = results if name in written else arrays
        group[f"at_{name}"] = argument.reshape(-1) if is_array else np.array([argument])
        if not (isinstance(kernel, Reduction) and name == "out"):
            lines.append(f"const auto {name} = {'' if is_array else '*'}at_{name}; (void){name};")
        counts = argument.dtype.name if dtype == "T" else counts
    body = "\n".join([*lines, _body(kernel, [name for name, _, _ in wanted])])
    gxx.run(_source(kernel, counts, arguments), body, arrays, results)


def _source(kernel: Kernel, counts: str, arguments: Sequence[Any]) -> str:
    """The device functions, or the file of a written-out kernel."""
    if isinstance(kernel, Elementwise | Reduction):
        alias = f"typedef {kernels.COUNT_TYPES[counts]} T;\n" if counts else ""
        return _SHIM + kernels.preamble() + alias
    return _SHIM + kernels.tile_source(counts, arguments[5].dtype.name)


def _body(kernel: Kernel, names: Sequence[str]) -> str:
    if isinstance(kernel, Elementwise):
        return _ELEMENTWISE.format(operation=kernel.operation)
    if isinstance(kernel, Reduction):
        parts = {"type": kernel.reduce_type, "identity": kernel.identity, "value": kernel.map_expression}
        return _REDUCTION.format(**parts, reduce=kernel.reduce, result=kernel.result)
    return _RAW.format(block=kernels.BLOCK, name=kernel.name, arguments=", ".join(names))
