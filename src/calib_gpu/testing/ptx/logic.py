"""Bits, comparisons, selections and moves."""

from __future__ import annotations

from calib_gpu.testing.ptx import types
from calib_gpu.testing.ptx.function import Scope
from calib_gpu.testing.ptx.instruction import Op, opcode
from calib_gpu.testing.ptx.module import Variable
from calib_gpu.testing.ptx.types import FLOATS, INTEGERS_16_UP, INTEGERS_32_UP

_BITS_16_UP = frozenset({"b16", "b32", "b64"})
_BITS_32_UP = frozenset({"b32", "b64"})
_MOVABLE = FLOATS | INTEGERS_16_UP | _BITS_16_UP | {"pred"}
_ORDERED = {"eq": "==", "ne": "!=", "lt": "<", "le": "<=", "gt": ">", "ge": ">="}
_UNORDERED = {f"{name}u": sign for name, sign in _ORDERED.items()}
_UNSIGNED = {"lo": "<", "ls": "<=", "hi": ">", "hs": ">="}
_LOGIC = {"and": "&", "or": "|", "xor": "^"}


@opcode("and", "or", "xor")
def logic(op: Op, scope: Scope) -> str:
    """Bitwise and, or, exclusive or."""
    kind = op.type(_BITS_16_UP | {"pred"})
    target, a, b = op.take(3)
    return scope.assign(op, target, kind, f"{scope.value(op, a, kind)} {_LOGIC[op.name]} {scope.value(op, b, kind)}")


@opcode("not", "cnot")
def invert(op: Op, scope: Scope) -> str:
    """Bitwise (`not`) or logical (`cnot`) inverse."""
    kind = op.type(_BITS_16_UP | ({"pred"} if op.name == "not" else set()))
    target, a = op.take(2)
    bitwise = op.name == "not" and kind != "pred"
    return scope.assign(op, target, kind, f"{'~' if bitwise else '!'}{scope.value(op, a, kind)}")


@opcode("shl", "shr")
def shift(op: Op, scope: Scope) -> str:
    """Shifts; counts beyond the width give 0, or the sign."""
    kind = op.type(_BITS_16_UP | (INTEGERS_16_UP if op.name == "shr" else frozenset()))
    target, a, count = op.take(3)
    x, n, width = scope.value(op, a, kind), scope.value(op, count, "u32"), types.bits(kind)
    sign = "<<" if op.name == "shl" else ">>"
    beyond = f"{x} >> {width - 1}" if kind in types.SIGNED else "0"
    return scope.assign(op, target, kind, f"{n} >= {width}u ? {beyond} : {x} {sign} {n}")


@opcode("shf")
def funnel_shift(op: Op, scope: Scope) -> str:
    """A shift of two registers as one; `.clamp` stops at 32, `.wrap` counts modulo 32."""
    kind = op.type({"b32"})
    direction, mode = op.one(("l", "r")), op.one(("clamp", "wrap"))
    target, low, high, count = op.take(4)
    n = scope.value(op, count, "u32")
    n = f"({n} & 31u)" if mode == "wrap" else f"({n} > 32u ? 32u : {n})"
    both = f"(((uint64_t){scope.value(op, high, kind)} << 32) | {scope.value(op, low, kind)})"
    value = f"(({both} << {n}) >> 32)" if direction == "l" else f"({both} >> {n})"
    return scope.assign(op, target, kind, value)


@opcode("popc", "clz", "brev")
def count_bits(op: Op, scope: Scope) -> str:
    """Number of ones, of leading zeros; bits in reverse order."""
    kind = op.type(_BITS_32_UP)
    target, a = op.take(2)
    out = kind if op.name == "brev" else "u32"
    return scope.assign(op, target, out, f"{op.name}_{kind}({scope.value(op, a, kind)})")


@opcode("bfind")
def find_bit(op: Op, scope: Scope) -> str:
    """Position of the highest bit that is not the sign; all ones where there is none."""
    kind = op.type(INTEGERS_32_UP)
    amount = op.flag("shiftamt")
    target, a = op.take(2)
    x = scope.value(op, a, kind)
    x = f"({x} < 0 ? ~{x} : {x})" if kind in types.SIGNED else x
    value = f"bfind({x}, {types.bits(kind)}u, {int(amount)})"
    return scope.assign(op, target, "u32", value)


@opcode("bfe")
def extract(op: Op, scope: Scope) -> str:
    """A field of bits, extended by sign or zero."""
    kind = op.type(INTEGERS_32_UP)
    target, a, start, length = op.take(4)
    values = ", ".join((scope.value(op, a, kind), scope.value(op, start, "u32"), scope.value(op, length, "u32")))
    return scope.assign(op, target, kind, f"bfe_{kind}({values})")


@opcode("bfi")
def insert(op: Op, scope: Scope) -> str:
    """The low bits of one register in a field of another."""
    kind = op.type(_BITS_32_UP)
    target, a, b, start, length = op.take(5)
    words = (scope.value(op, a, kind), scope.value(op, b, kind))
    values = ", ".join((*words, scope.value(op, start, "u32"), scope.value(op, length, "u32")))
    return scope.assign(op, target, kind, f"bfi({values}, {types.bits(kind)}u)")


@opcode("prmt")
def permute(op: Op, scope: Scope) -> str:
    """Any four bytes of two registers."""
    kind = op.type({"b32"})
    target, *operands = op.take(4)
    return scope.assign(op, target, kind, f"prmt({', '.join(scope.value(op, o, kind) for o in operands)})")


@opcode("lop3")
def lop3(op: Op, scope: Scope) -> str:
    """Any logical function of three, given by its table."""
    kind = op.type({"b32"})
    target, *operands = op.take(5)
    return scope.assign(op, target, kind, f"lop3({', '.join(scope.value(op, o, 'u32') for o in operands)})")


@opcode("setp")
def compare(op: Op, scope: Scope) -> str:
    """A comparison; with a third operand combined by and, or, xor; with a second target its inverse too."""
    kind = op.type(FLOATS | INTEGERS_16_UP | _BITS_16_UP)
    flush = kind == "f32" and op.flag("ftz")
    join = op.one(_LOGIC, "")
    target, a, b, *third = op.take(4 if join else 3)
    test = _comparison(op, scope, kind, (a, b), flush)
    first, *second = target.split("|")
    joined = f" {_LOGIC[join]} extra_" if join else ""
    extra = f" int extra_ = {scope.value(op, third[0], 'pred')};" if join else ""
    values = zip((first, *second), ("test_", "!test_"), strict=False)
    lines = [scope.assign(op, name, "pred", f"({value}){joined}") for name, value in values if name != "_"]
    return f"{{ int test_ = {test};{extra} {' '.join(lines)} }}"


def _comparison(op: Op, scope: Scope, kind: str, operands: tuple[str, str], flush: bool) -> str:
    x, y = (scope.value(op, operand, kind) for operand in operands)
    if flush:
        x, y = f"flush({x})", f"flush({y})"
    if kind in FLOATS:
        test = op.one((*_ORDERED, *_UNORDERED, "num", "nan"))
        if test in ("num", "nan"):
            return f"({'!' if test == 'num' else ''}unordered({x}, {y}))"
        if test in _UNORDERED:
            return f"(unordered({x}, {y}) || {x} {_UNORDERED[test]} {y})"
        return f"(!unordered({x}, {y}) && {x} {_ORDERED[test]} {y})"
    allowed = {"eq": "==", "ne": "!="} if kind in types.UNTYPED else dict(_ORDERED)
    if kind in types.UNSIGNED:
        allowed |= _UNSIGNED
    return f"({x} {allowed[op.one(allowed)]} {y})"


@opcode("selp")
def select(op: Op, scope: Scope) -> str:
    """The first operand where the predicate holds, else the second."""
    kind = op.type(_MOVABLE - {"pred"})
    target, a, b, chosen = op.take(4)
    value = f"{scope.value(op, chosen, 'pred')} ? {scope.value(op, a, kind)} : {scope.value(op, b, kind)}"
    return scope.assign(op, target, kind, value)


@opcode("mov")
def move(op: Op, scope: Scope) -> str:
    """A copy, the address of a variable, or parts of a register put together or taken apart."""
    kind = op.type(_MOVABLE)
    target, source = op.take(2)
    if source.startswith("{"):
        return _join(op, scope, kind, target, source)
    if target.startswith("{"):
        return _part(op, scope, kind, target, source)
    name = source.split("+")[0].strip()
    if isinstance(scope.find(name), Variable):
        address, variable = scope.base(op, source)
        narrow = variable is not None and variable.space == "shared"
        if kind not in ("u64", "b64", "s64") and not (narrow and kind in ("u32", "b32", "s32")):
            raise op.refuse(f"the address of {name} as {kind}")
        return scope.assign(op, target, kind, address)
    raw = kind if kind == "pred" else f"b{types.bits(kind)}"
    return scope.assign(op, target, raw, scope.value(op, source, raw))


def _pieces(op: Op, kind: str, text: str) -> tuple[list[str], str]:
    names = [part.strip() for part in text.strip("{} ").split(",")]
    width = types.bits(kind) // len(names)
    if width not in (16, 32) or width * len(names) != types.bits(kind):
        raise op.refuse(f"{len(names)} parts of {kind}")
    return names, f"b{width}"


def _join(op: Op, scope: Scope, kind: str, target: str, source: str) -> str:
    names, part = _pieces(op, kind, source)
    whole = types.raw(kind)
    value = " | ".join(
        f"(({whole}){scope.value(op, name, part)} << {i * types.bits(part)})" for i, name in enumerate(names)
    )
    return scope.assign(op, target, f"b{types.bits(kind)}", value)


def _part(op: Op, scope: Scope, kind: str, target: str, source: str) -> str:
    names, part = _pieces(op, kind, target)
    value = scope.value(op, source, f"b{types.bits(kind)}")
    parts = [scope.assign(op, name, part, f"whole_ >> {i * types.bits(part)}") for i, name in enumerate(names)]
    return f"{{ {types.raw(kind)} whole_ = {value}; {' '.join(parts)} }}"
