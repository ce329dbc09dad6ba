"""The CUDA source that CuPy 14 compiles for its elementwise and reduction kernels, found without a GPU.

CuPy has no public way to this: the functions are private, so the version of CuPy is checked and the tests run them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cupy
import numpy as np
from cupy._core import _carray, _kernel, _reduction, _scalar, core

from calib_gpu.errors import CalibError

_ARRAY, _INDEXER, _SCALAR = 1, 2, 3
if not cupy.__version__.startswith("14."):
    raise CalibError(
        "the source of kernels is known for CuPy 14", value=cupy.__version__, fix="pip install 'cupy-cuda13x==14.*'"
    )


@dataclass(frozen=True)
class ArrayType:
    """An array argument of a kernel.

    Parameters
    ----------
    dtype
        Of the elements.
    ndim
        Number of axes after CuPy has joined those that lie together; 1 for contiguous arrays.
    contiguous
        C-contiguous.
    index32
        Fewer than 2**31 elements and bytes.
    """

    dtype: Any
    ndim: int = 1
    contiguous: bool = True
    index32: bool = True


@dataclass(frozen=True)
class ScalarType:
    """A scalar argument of a kernel."""

    dtype: Any


ArgumentType = ArrayType | ScalarType


def _info(argument: ArgumentType) -> Any:
    dtype = np.dtype(argument.dtype)
    if isinstance(argument, ScalarType):
        return _kernel._ArgInfo(_SCALAR, _scalar.CScalar, dtype, 0, True, True)
    return _kernel._ArgInfo(_ARRAY, cupy.ndarray, dtype, argument.ndim, argument.contiguous, argument.index32)


def _indexer(ndim: int, index32: bool) -> Any:
    return _kernel._ArgInfo(_INDEXER, _carray.Indexer, None, ndim, True, index32)


def _headers() -> str:
    return "".join(f"#include <{header}>\n" for header in core._cupy_header_list)


def _dtypes(arguments: Sequence[ArgumentType]) -> tuple[Any, ...]:
    """Types that decide the template parameters: those of arrays, as CuPy takes them."""
    return tuple(np.dtype(a.dtype).type if isinstance(a, ArrayType) else None for a in arguments)


def elementwise_source(kernel: Any, arguments: Sequence[ArgumentType], ndim: int = 1, index32: bool = True) -> str:
    """Source of an ElementwiseKernel for argument types, outputs included; `ndim` is that of its loop."""
    infos: tuple[Any, ...] = tuple(_info(a) for a in arguments)
    in_types, out_types = _dtypes(arguments[: kernel.nin]), _dtypes(arguments[kernel.nin :])
    _, _, type_map = kernel._decide_params_type(in_types, out_types)
    infos = (*infos, _indexer(ndim, index32))
    code = _kernel._get_elementwise_kernel_code(
        infos, type_map, kernel.params, kernel.operation, kernel.name, kernel.preamble, **kernel.kwargs
    )
    return _headers() + str(code)


def reduction_source(
    kernel: Any,
    arguments: Sequence[ArgumentType],
    ndim_in: int = 1,
    ndim_out: int = 1,
    index32: bool = True,
    block_size: int = 512,
) -> str:
    """Source of a ReductionKernel for argument types, outputs included; `ndim_in` and `ndim_out` are those of its loops."""
    in_types, out_types = _dtypes(arguments[: kernel.nin]), _dtypes(arguments[kernel.nin :])
    _, _, type_map = _kernel._decide_params_type(kernel.in_params, kernel.out_params, in_types, out_types)
    type_map = _kernel._TypeMap((("IndexT", np.int32 if index32 else np.int64), *type_map._pairs))
    loops = _kernel._get_param_info("CIndexer _in_ind, CIndexer _out_ind", False)
    stride = _kernel._get_param_info("int32 _block_stride", True)
    infos = (
        *(_info(a) for a in arguments),
        _indexer(ndim_in, index32),
        _indexer(ndim_out, index32),
        _info(ScalarType("i4")),
    )
    code = _reduction._ReductionKernel_get_cached_function_code(
        kernel.nin, kernel.nout, kernel.in_params + kernel.out_params + loops + stride, infos, type_map, kernel.name, block_size,
        kernel.reduce_type, kernel.identity, kernel.map_expr, kernel.reduce_expr, kernel.post_map_expr, kernel.preamble,
        kernel.options,
    )  # fmt: skip
    return _headers() + str(code)


def cupy_options(options: Sequence[str] = ()) -> tuple[str, ...]:
    """The options with which CuPy compiles: its include folders before, those of the CUDA headers after those given."""
    return tuple(core.assemble_cupy_compiler_options(tuple(options)))
