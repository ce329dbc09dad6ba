"""Conversions between integers and floats, and of addresses."""

from __future__ import annotations

from calib_gpu.testing.ptx import types
from calib_gpu.testing.ptx.function import Scope
from calib_gpu.testing.ptx.instruction import ROUNDINGS, Op, opcode
from calib_gpu.testing.ptx.types import FLOATS, INTEGERS

_TO_INTEGER = {"rni": "rint", "rzi": "trunc", "rmi": "floor", "rpi": "ceil"}


@opcode("cvt")
def convert(op: Op, scope: Scope) -> str:
    """From one type to another; floats to integers clamp to the range of the result."""
    source = op.type(INTEGERS | FLOATS)
    result = op.type(INTEGERS | FLOATS)
    target, a = op.take(2)
    value = scope.value(op, a, source, wider=source in INTEGERS)
    rules = {(False, False): _integers, (False, True): _to_float, (True, False): _to_integer, (True, True): _floats}
    converted = rules[source in FLOATS, result in FLOATS](op, source, result, value)
    return scope.assign(op, target, result, converted, wider=result in INTEGERS)


def _integers(op: Op, source: str, result: str, value: str) -> str:
    if op.flag("sat"):
        kind = "s" if source in types.SIGNED else "u"
        return f"clamp_{kind}_{result}({value})"
    return value


def _to_float(op: Op, source: str, result: str, value: str) -> str:
    if op.flag("sat"):
        raise op.refuse("an integer converted to a float with .sat")
    if result == "f32":
        op.flag("ftz")  # no integer becomes a subnormal
    kind = "s" if source in types.SIGNED else "u"
    return f"from_{kind}64_{op.one(ROUNDINGS)}_{result}({value})"


def _to_integer(op: Op, source: str, result: str, value: str) -> str:
    if source == "f32" and op.flag("ftz"):
        value = f"flush({value})"
    op.flag("sat")  # it always saturates
    rounded = f"{_TO_INTEGER[op.one(_TO_INTEGER)]}((double){value})"
    # PTX ISA, cvt: NaN gives 0 if neither side has 64 bits, else the top bit alone
    nan = "1" if source == "f64" or types.bits(result) == 64 else "0"
    return f"to_{result}({rounded}, {nan})"


def _floats(op: Op, source: str, result: str, value: str) -> str:
    ftz = "f32" in (source, result) and op.flag("ftz")
    if ftz and source == "f32":
        value = f"flush({value})"
    if source == result:
        whole = op.one(_TO_INTEGER, "")
        if whole:
            suffix = "f" if source == "f32" else ""
            value = f"{_TO_INTEGER[whole]}{suffix}({value})"
    elif result == "f32":
        value = f"narrow_{op.one(ROUNDINGS)}_f32({value})"
    else:
        value = f"(double){value}"
    if result == "f32" and (source != result or ftz):
        value = f"one_nan({value})"
    if ftz and result == "f32":
        value = f"flush({value})"
    if op.flag("sat"):
        value = f"saturate{'' if result == 'f32' else '_f64'}({value})"
    return value


@opcode("cvta")
def address(op: Op, scope: Scope) -> str:
    """An address within a memory space from or to a generic address."""
    kind = op.type({"u64"})
    inward = op.flag("to")
    space = op.one(("global", "const", "shared", "local", "param"))
    target, a = op.take(2)
    value, _ = scope.base(op, a)
    if space == "shared":
        value = f"{value} {'-' if inward else '+'} (uint64_t)(uintptr_t)launch.shared"
    return scope.assign(op, target, kind, value)
