"""Arithmetic of integers, and which opcodes are arithmetic at all."""

from __future__ import annotations

from calib_gpu.testing.ptx import floats, types
from calib_gpu.testing.ptx.function import Scope
from calib_gpu.testing.ptx.instruction import Op, opcode
from calib_gpu.testing.ptx.types import FLOATS, INTEGERS_16_UP, INTEGERS_32_UP

_NUMBERS = FLOATS | INTEGERS_16_UP
_SIGNED = frozenset({"s16", "s32", "s64"})
_INT128 = {"u64": "unsigned __int128", "s64": "__int128"}


@opcode("add", "sub")
def add(op: Op, scope: Scope) -> str:
    """Sum and difference; `.sat.s32` clamps, `.cc` keeps the carry."""
    kind = op.type(_NUMBERS)
    if kind in FLOATS:
        return floats.calculate(op, scope, kind, 2)
    if op.flag("cc"):
        return _with_carry(op, scope, kind, takes=False, gives=True)
    target, a, b = op.take(3)
    x, y = scope.value(op, a, kind), scope.value(op, b, kind)
    if kind == "s32" and op.flag("sat"):
        sign = "+" if op.name == "add" else "-"
        return scope.assign(op, target, kind, f"clamp_s32((int64_t){x} {sign} (int64_t){y})")
    return scope.assign(op, target, kind, f"{x} {'+' if op.name == 'add' else '-'} {y}")


@opcode("addc", "subc")
def add_carry(op: Op, scope: Scope) -> str:
    """Sum and difference that use the carry."""
    kind = op.type(INTEGERS_32_UP)
    return _with_carry(op, scope, kind, takes=True, gives=op.flag("cc"))


def _with_carry(op: Op, scope: Scope, kind: str, takes: bool, gives: bool) -> str:
    if kind not in INTEGERS_32_UP:
        raise op.refuse(f"{op.name} with carry of {kind}")
    target, a, b = op.take(3)
    plus = op.name.startswith("add")
    x, y = (f"(unsigned __int128)({types.raw(kind)}){scope.value(op, operand, kind)}" for operand in (a, b))
    carry = f" {'+' if plus else '-'} carry" if takes else ""
    width = types.bits(kind)
    keep = f" carry = (uint32_t)(wide_ >> {width}) & 1u;" if gives else ""
    total = f"unsigned __int128 wide_ = {x} {'+' if plus else '-'} {y}{carry};"
    return f"{{ {total}{keep} {scope.assign(op, target, kind, 'wide_')} }}"


@opcode("mul")
def mul(op: Op, scope: Scope) -> str:
    """Product; of integers its low or high half, or all of it."""
    kind = op.type(_NUMBERS)
    if kind in FLOATS:
        return floats.calculate(op, scope, kind, 2)
    target, a, b = op.take(3)
    out, product = _product(op, scope, kind, a, b)
    return scope.assign(op, target, out, product)


@opcode("mad")
def mad(op: Op, scope: Scope) -> str:
    """Product plus a third; `mad` of floats is `fma`."""
    kind = op.type(_NUMBERS)
    if kind in FLOATS:
        raise op.refuse("mad of floats")
    if "cc" in op.modifiers:
        return _mad_carry(op, scope, kind, takes=False)
    target, a, b, c = op.take(4)
    out, product = _product(op, scope, kind, a, b)
    return scope.assign(op, target, out, f"({types.c_type(out)})({product}) + {scope.value(op, c, out)}")


@opcode("madc")
def madc(op: Op, scope: Scope) -> str:
    """Product plus a third plus carry."""
    return _mad_carry(op, scope, op.type(INTEGERS_32_UP), takes=True)


def _mad_carry(op: Op, scope: Scope, kind: str, takes: bool) -> str:
    gives = op.flag("cc")
    if kind not in INTEGERS_32_UP or "wide" in op.modifiers:
        raise op.refuse(f"{op.name} with carry of {kind}")
    target, a, b, c = op.take(4)
    _, product = _product(op, scope, kind, a, b)
    raw, width = types.raw(kind), types.bits(kind)
    third = f"(unsigned __int128)({raw}){scope.value(op, c, kind)}"
    total = f"unsigned __int128 wide_ = (unsigned __int128)({raw})({product}) + {third}{' + carry' if takes else ''};"
    keep = f" carry = (uint32_t)(wide_ >> {width}) & 1u;" if gives else ""
    return f"{{ {total}{keep} {scope.assign(op, target, kind, 'wide_')} }}"


def _product(op: Op, scope: Scope, kind: str, a: str, b: str) -> tuple[str, str]:
    """Type and C expression of a product of integers."""
    part = op.one(("lo", "hi", "wide"))
    x, y = scope.value(op, a, kind), scope.value(op, b, kind)
    if part == "wide":
        if types.bits(kind) == 64:
            raise op.refuse("mul.wide of 64 bits")
        out = types.wider(kind)
        return out, f"({types.c_type(out)}){x} * ({types.c_type(out)}){y}"
    wide = _INT128.get(kind) or types.c_type(types.wider(kind))
    product = f"(({wide}){x} * ({wide}){y})"
    return kind, product if part == "lo" else f"({product} >> {types.bits(kind)})"


@opcode("div")
def div(op: Op, scope: Scope) -> str:
    """Quotient; an integer divided by 0 is a fault."""
    kind = op.type(_NUMBERS)
    if kind in FLOATS:
        return floats.divide(op, scope, kind)
    return _divide(op, scope, kind)


@opcode("rem")
def rem(op: Op, scope: Scope) -> str:
    """Remainder, with the sign of the dividend."""
    return _divide(op, scope, op.type(INTEGERS_16_UP))


def _divide(op: Op, scope: Scope, kind: str) -> str:
    target, a, b = op.take(3)
    sign = "s" if kind in types.SIGNED else "u"
    value = f"{op.name}_{sign}64(t, {scope.value(op, a, kind)}, {scope.value(op, b, kind)}, {op.line})"
    return scope.assign(op, target, kind, value)


@opcode("min", "max")
def extreme(op: Op, scope: Scope) -> str:
    """The lesser and the greater."""
    kind = op.type(_NUMBERS)
    if kind in FLOATS:
        return floats.extreme(op, scope, kind)
    target, a, b = op.take(3)
    x, y = scope.value(op, a, kind), scope.value(op, b, kind)
    return scope.assign(op, target, kind, f"{x} {'<' if op.name == 'min' else '>'} {y} ? {x} : {y}")


@opcode("neg", "abs")
def sign(op: Op, scope: Scope) -> str:
    """Negative and absolute value."""
    kind = op.type(FLOATS | _SIGNED)
    if kind in FLOATS:
        return floats.sign(op, scope, kind)
    target, a = op.take(2)
    x = scope.value(op, a, kind)
    negative = f"({types.c_type(kind)})(0 - ({types.raw(kind)}){x})"
    return scope.assign(op, target, kind, negative if op.name == "neg" else f"{x} < 0 ? {negative} : {x}")


opcode("fma")(floats.fma)
opcode("sqrt", "rcp", "rsqrt")(floats.root_or_reciprocal)
opcode("ex2", "lg2", "sin", "cos", "tanh")(floats.transcendental)
opcode("copysign")(floats.copysign)
opcode("testp")(floats.testp)
