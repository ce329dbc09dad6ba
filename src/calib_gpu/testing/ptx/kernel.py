"""A kernel that runs on the CPU: arguments in, the grid run, faults told with thread and line of the PTX."""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from calib_gpu.testing.ptx import types
from calib_gpu.testing.ptx.build import build
from calib_gpu.testing.ptx.errors import KernelFault, PtxError
from calib_gpu.testing.ptx.layout import Struct
from calib_gpu.testing.ptx.module import Variable, parse
from calib_gpu.testing.ptx.translate import translate

Argument = NDArray[Any] | np.generic | Struct | bytes
Dims = int | tuple[int, ...]
Order = Literal["forward", "reversed", "shuffled"]
_ORDERS: dict[str, int] = {"forward": 0, "reversed": 1, "shuffled": 2}
_MAX_RANGES = 200
_MAX_SHARED = 227 * 1024
_FAULTS = {
    1: "an access outside of the arrays that were given",
    2: "an access whose address is no multiple of its size",
    3: "a write to an array that may not be written",
    4: "an integer division by zero",
    5: "an indexed branch beyond its list",
    6: "a trap",
    7: "threads ended while others of their block wait at a barrier",
    8: "threads wait for each other without end",
    9: "a warp instruction whose mask names threads that do not take part",
    10: "a warp instruction that reads a thread outside of its mask",
    11: "threads of a block wait at different barriers",
    12: "not enough memory to run the grid",
    13: "an assertion of the kernel that does not hold",
}


class _Range(ctypes.Structure):
    _fields_ = (
        ("low", ctypes.c_uint64),
        ("high", ctypes.c_uint64),
        ("writable", ctypes.c_int32),
        ("space", ctypes.c_int32),
    )


class _Fault(ctypes.Structure):
    _fields_ = (
        ("code", ctypes.c_int32),
        ("line", ctypes.c_int32),
        ("address", ctypes.c_uint64),
        ("size", ctypes.c_uint32),
        ("write", ctypes.c_int32),
        ("tid", ctypes.c_uint32 * 3),
        ("ctaid", ctypes.c_uint32 * 3),
    )


class PtxKernel:
    """An entry of a PTX module, translated to C and compiled for this machine.

    Parameters
    ----------
    ptx
        The text of the module.
    name
        The entry, as the PTX calls it.

    Attributes
    ----------
    approximate
        Instructions of the kernel whose last bits only the device knows; where it is empty, the arithmetic is that of IEEE 754.
    opcodes
        All opcodes of the kernel, with modifiers.

    Raises
    ------
    UnknownInstruction
        For any opcode, modifier or directive whose meaning is not certain.
    """

    def __init__(self, ptx: str | bytes, name: str) -> None:
        text = ptx.decode() if isinstance(ptx, bytes) else ptx
        module = parse(text.rstrip("\0"))
        self.name, self._lines = name, module.lines
        self._translation = translate(module, name)
        self.approximate, self.opcodes = self._translation.approximate, self._translation.opcodes
        self._library = ctypes.CDLL(str(build(self._translation.source, name)))
        self._lock = threading.Lock()

    @property
    def source(self) -> str:
        """The C into which the kernel was translated."""
        return self._translation.source

    def run(
        self,
        grid: Dims,
        block: Dims,
        args: Sequence[Argument],
        *,
        shared_bytes: int = 0,
        order: Order = "forward",
        seed: int = 0,
    ) -> None:
        """Run the grid; arrays are changed in place.

        Parameters
        ----------
        grid, block
            Up to three numbers each, x first.
        args
            NumPy arrays become pointers, NumPy scalars and structs are passed by value. An array that is not writeable is one
            that the kernel may only read.
        shared_bytes
            Size of the shared memory that the kernel declares without one.
        order
            Order in which blocks and threads run; no result may depend on it.
        seed
            Of the shuffled order.

        Raises
        ------
        PtxError
            Arguments or sizes do not fit the kernel.
        KernelFault
            An access that no array holds, a misaligned one, a barrier that not all threads reach, and the like.
        """
        dims = (*self._dims(block, "block"), *self._dims(grid, "grid"))
        self._check_launch(dims, shared_bytes)
        params, arrays = self._params(args)
        ranges = self._ranges(arrays)
        fault = _Fault()
        aligned = np.zeros(len(params) + 64, np.uint8)
        start = -aligned.ctypes.data % 64
        aligned[start : start + len(params)] = np.frombuffer(params, np.uint8)
        with self._lock:
            self._library.ptx_run(
                (ctypes.c_uint32 * 6)(*dims),
                ctypes.c_void_p(aligned.ctypes.data + start),
                ranges,
                ctypes.c_uint32(len(ranges)),
                ctypes.c_uint64(shared_bytes),
                ctypes.c_int(_ORDERS[order]),
                ctypes.c_uint64(seed),
                ctypes.byref(fault),
            )
        if fault.code:
            raise self._error(fault, dims)

    # --- before

    def _dims(self, given: Dims, what: str) -> tuple[int, int, int]:
        numbers = (given,) if isinstance(given, int) else tuple(given)
        if not 1 <= len(numbers) <= 3 or any(n < 1 for n in numbers):
            raise PtxError(f"the {what} must be one to three numbers of at least 1", array=self.name, value=given)
        return (*numbers, 1, 1)[:3]  # type: ignore[return-value]

    def _check_launch(self, dims: tuple[int, ...], shared_bytes: int) -> None:
        threads = dims[0] * dims[1] * dims[2]
        most = min(1024, self._translation.entry.max_threads or 1024)
        shared = self._translation.static_shared + shared_bytes
        rules = {
            f"at most {most} threads a block": threads <= most and dims[2] <= 64,
            "a grid of at most 2**31 - 1, 65535, 65535 blocks": dims[3] < 2**31 and max(dims[4:]) <= 65535,
            f"at most {_MAX_SHARED} bytes of shared memory": shared <= _MAX_SHARED,
            "shared_bytes only where the kernel declares shared memory without a size": not shared_bytes
            or self._translation.dynamic_shared,
        }
        for rule, holds in rules.items():
            if not holds:
                raise PtxError(
                    "a launch that no GPU takes", array=self.name, value=(dims[:3], dims[3:], shared), rule=rule
                )

    def _params(self, args: Sequence[Argument]) -> tuple[bytes, list[NDArray[Any]]]:
        wanted = self._translation.entry.params
        if len(args) != len(wanted):
            raise PtxError(f"{len(args)} arguments for {len(wanted)} parameters", array=self.name)
        buffer = bytearray(self._translation.param_size)
        arrays: list[NDArray[Any]] = []
        for number, (argument, variable) in enumerate(zip(args, wanted, strict=True)):
            data = self._bytes(argument, variable, number, arrays)
            offset = self._translation.offsets[variable.name]
            buffer[offset : offset + variable.size] = data
        return bytes(buffer), arrays

    def _bytes(self, argument: object, variable: Variable, number: int, arrays: list[NDArray[Any]]) -> bytes:
        if isinstance(argument, np.ndarray):
            arrays.append(argument)
            data = int(argument.ctypes.data).to_bytes(8, "little")
        elif isinstance(argument, Struct):
            arrays.extend(argument.arrays)
            data = argument.data
        elif isinstance(argument, np.generic):
            if variable.type in types.FLOATS and argument.dtype.kind != "f":
                raise PtxError(
                    f"argument {number} must be a float", array=self.name, value=argument, rule=variable.type
                )
            data = argument.tobytes()
        elif isinstance(argument, bytes):
            data = argument
        else:
            fix = "give a NumPy array, a NumPy scalar, bytes or a Struct"
            raise PtxError(f"argument {number} has no size of its own", array=self.name, value=argument, fix=fix)
        if len(data) != variable.size:
            raise PtxError(
                f"argument {number} has {len(data)} bytes, not {variable.size}", array=self.name, value=argument
            )
        return data

    def _ranges(self, arrays: list[NDArray[Any]]) -> ctypes.Array[_Range]:
        found: dict[tuple[int, int], bool] = {}
        for array in arrays:
            bounds = np.lib.array_utils.byte_bounds(array) if array.size else (array.ctypes.data, array.ctypes.data)
            key = (int(bounds[0]), int(bounds[1]))
            found[key] = found.get(key, False) or bool(array.flags.writeable)
        if len(found) > _MAX_RANGES:
            raise PtxError(f"more than {_MAX_RANGES} arrays", array=self.name, value=len(found))
        return (_Range * len(found))(*(_Range(*key, int(writable), 0) for key, writable in found.items()))

    # --- after

    def _error(self, fault: _Fault, dims: tuple[int, ...]) -> KernelFault:
        line = self._lines[fault.line - 1].strip() if 0 < fault.line <= len(self._lines) else ""
        where = f"thread {tuple(fault.tid)} of block {tuple(fault.ctaid)}, line {fault.line} of the PTX: {line}"
        access = (
            f"; {'write' if fault.write else 'read'} of {fault.size} bytes at 0x{fault.address:x}" if fault.size else ""
        )
        return KernelFault(
            f"{_FAULTS[fault.code]}: {where}{access}", array=self.name, value=f"block {dims[:3]}, grid {dims[3:]}"
        )
