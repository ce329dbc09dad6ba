"""Single instructions of PTX run on arrays, and exact rounding by which their results are judged."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from calib_gpu.testing.ptx import PtxKernel

HEAD = ".version 8.0\n.target sm_80\n.address_size 64\n"
needs_compiler = pytest.mark.skipif(shutil.which("gcc") is None, reason="needs gcc, which is not installed")
_REGISTER = {"f4": "f32", "f8": "f64", "i1": "b16", "u1": "b16", "i2": "b16", "u2": "b16", "i4": "b32", "u4": "b32",
             "i8": "b64", "u8": "b64", "b1": "pred"}  # fmt: skip
_LOAD = {"f4": "f32", "f8": "f64", "i1": "s8", "u1": "u8", "i2": "s16", "u2": "u16", "i4": "s32", "u4": "u32", "i8": "s64",
         "u8": "u64"}  # fmt: skip


def _name(dtype: Any) -> str:
    return np.dtype(dtype).str[1:]


def evaluate(
    instructions: Mapping[str, tuple[str, Any]], inputs: Mapping[str, NDArray[Any]]
) -> dict[str, NDArray[Any]]:
    """Run instructions on each element of arrays.

    Parameters
    ----------
    instructions
        Name of the result to instruction and type of the result. The instruction writes %d and reads inputs by name, as
        "add.f32 %d, %a, %b;". A result of type bool is a predicate; an input of type bool, too.
    inputs
        Arrays of one length by name of one letter.
    """
    length = len(next(iter(inputs.values())))
    results = {name: np.zeros(length, "u1" if _name(t) == "b1" else t) for name, (_, t) in instructions.items()}
    arrays = {**{k: np.ascontiguousarray(v) for k, v in inputs.items()}, **results}
    params = ",\n".join(f".param .u64 k_{name}" for name in arrays)
    body = [
        ".reg .b64 %at, %step, %index;",
        ".reg .b32 %block;",
        ".reg .b16 %flag;",
        "mov.u32 %block, %ctaid.x;",
        "cvt.u64.u32 %index, %block;",
    ]
    for name, array in arrays.items():
        body += [
            f"ld.param.u64 %at, [k_{name}];",
            f"mul.lo.s64 %step, %index, {array.itemsize};",
            "add.s64 %at, %at, %step;",
        ]
        body += [f".reg .b64 %at_{name};", f"mov.u64 %at_{name}, %at;"]
    for name, array in inputs.items():
        body.append(f".reg .{_REGISTER[_name(array.dtype)]} %{name};")
        if array.dtype == bool:
            body += [f"ld.global.u8 %flag, [%at_{name}];", f"setp.ne.u16 %{name}, %flag, 0;"]
        else:
            body.append(f"ld.global.{_LOAD[_name(array.dtype)]} %{name}, [%at_{name}];")
    for name, (text, dtype) in instructions.items():
        kind = _name(dtype)
        body += ["{", f".reg .{_REGISTER[kind]} %d;", text]
        if kind == "b1":
            body += ["selp.b16 %flag, 1, 0, %d;", f"st.global.u8 [%at_{name}], %flag;"]
        else:
            body.append(f"st.global.{_LOAD[kind]} [%at_{name}], %d;")
        body.append("}")
    ptx = f"{HEAD}.visible .entry k(\n{params}\n)\n{{\n" + "\n".join(body) + "\nret;\n}\n"
    PtxKernel(ptx, "k").run(length, 1, [a.view("u1") if a.dtype == bool else a for a in arrays.values()])
    return {n: r.astype(bool) if _name(instructions[n][1]) == "b1" else r for n, r in results.items()}


def grid(values: list[Any], dtype: Any) -> tuple[NDArray[Any], NDArray[Any]]:
    """All pairs of values."""
    array = np.array(values, dtype)
    return tuple(np.ascontiguousarray(a.ravel()) for a in np.meshgrid(array, array, indexing="ij"))  # type: ignore[return-value]


def exact_round(value: Fraction, dtype: Any, mode: str = "rn") -> Any:
    """The float next to an exact number that is not 0: nearest (ties to even), towards zero, -inf, +inf."""
    kind = np.dtype(dtype).type
    largest = Fraction(float(np.finfo(kind).max))
    with np.errstate(all="ignore"):
        near = kind(float(min(max(value, -largest), largest)))
        down = near if Fraction(float(near)) <= value else np.nextafter(near, kind(-np.inf))
        up = near if Fraction(float(near)) >= value else np.nextafter(near, kind(np.inf))
    if mode == "rm" or (mode == "rz" and value > 0):
        return down
    if mode == "rp" or mode == "rz":
        return up
    if down == up:
        return down
    # a float beyond the largest stands for the next power of two
    power = Fraction(2) ** (128 if kind is np.float32 else 1024)
    low, high = (Fraction(float(x)) if np.isfinite(x) else (power if x > 0 else -power) for x in (down, up))
    if value - low != high - value:
        return down if value - low < high - value else up
    bits = np.uint32 if kind is np.float32 else np.uint64
    return down if int(np.array(down).view(bits)) % 2 == 0 else up


def same(found: NDArray[Any], expected: NDArray[Any]) -> None:
    """Fail unless both have the same numbers, the same signs of zero, and NaN at the same places."""
    found, expected = np.asarray(found), np.asarray(expected)
    assert found.dtype == expected.dtype
    if found.dtype.kind != "f":
        np.testing.assert_array_equal(found, expected)
        return
    number = ~np.isnan(expected)
    np.testing.assert_array_equal(np.isnan(found), ~number)
    bits = f"u{found.itemsize}"
    np.testing.assert_array_equal(found[number].view(bits), expected[number].view(bits))
