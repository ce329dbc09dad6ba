"""Loads, stores and atomic operations."""

from __future__ import annotations

from calib_gpu.testing.ptx import types
from calib_gpu.testing.ptx.function import Scope
from calib_gpu.testing.ptx.instruction import Op, opcode
from calib_gpu.testing.ptx.types import FLOATS, INTEGERS, INTEGERS_32_UP, UNTYPED

_SPACES = ("global", "shared", "local", "param", "const")
_ORDER = ("relaxed", "acquire", "release", "acq_rel", "volatile", "weak")
_SCOPES = ("cta", "cluster", "gpu", "sys")
_CACHE = ("ca", "cg", "cs", "lu", "cv", "wb", "wt", "nc")
_HINTS = ("L1::evict_normal", "L1::evict_unchanged", "L1::evict_first", "L1::evict_last", "L1::no_allocate",
          "L2::64B", "L2::128B", "L2::256B")  # fmt: skip
_ATOMIC = {
    "and": (frozenset({"b32", "b64"}), "old_ & x_"),
    "or": (frozenset({"b32", "b64"}), "old_ | x_"),
    "xor": (frozenset({"b32", "b64"}), "old_ ^ x_"),
    "exch": (frozenset({"b32", "b64"}), "x_"),
    "cas": (frozenset({"b16", "b32", "b64"}), "old_ == x_ ? y_ : old_"),
    "add": (frozenset({"u32", "s32", "u64", "f32", "f64"}), "old_ + x_"),
    "min": (INTEGERS_32_UP, "old_ < x_ ? old_ : x_"),
    "max": (INTEGERS_32_UP, "old_ > x_ ? old_ : x_"),
    "inc": (frozenset({"u32"}), "old_ >= x_ ? 0u : old_ + 1u"),
    "dec": (frozenset({"u32"}), "old_ == 0u || old_ > x_ ? x_ : old_ - 1u"),
}


def _space(op: Op) -> str:
    """The memory space; `::cta` and `::entry` name the only ones that there are."""
    for longer, plain in (("shared::cta", "shared"), ("param::entry", "param"), ("param::func", "param")):
        if op.flag(longer):
            return plain
    return op.one(_SPACES, "generic")


def _ignore_order(op: Op) -> None:
    """Take the modifiers of order, scope and caching, which change nothing where threads run one after the other."""
    for names in (_ORDER, _SCOPES, _CACHE):
        op.one(names, "")
    for hint in _HINTS:
        op.flag(hint)


def _vector(op: Op, operand: str) -> list[str]:
    length = op.one(("v2", "v4"), "")
    names = [part.strip() for part in operand.strip("{} ").split(",")] if operand.startswith("{") else [operand]
    if len(names) != int(length[1:] if length else 1) or bool(length) != operand.startswith("{"):
        raise op.refuse(f"{operand} for {length or 'one value'}")
    return names


def _bits_of(kind: str) -> str:
    """Floats are loaded and stored as bits, so that no NaN changes."""
    return f"b{types.bits(kind)}" if kind in FLOATS else kind


@opcode("ld")
def load(op: Op, scope: Scope) -> str:
    """One, two or four values; narrow integers are extended to the register."""
    kind = _bits_of(op.type(FLOATS | INTEGERS | UNTYPED))
    target, address = op.take(2)
    names = _vector(op, target)
    space = _space(op)
    _ignore_order(op)
    pointer = scope.pointer(op, address, space, types.size(kind) * len(names), write=False)
    puts = [scope.assign(op, name, kind, f"from_[{i}]", wider=True) for i, name in enumerate(names)]
    c_type = types.c_type(kind)
    return f"{{ {c_type} from_[{len(names)}]; memcpy(from_, {pointer}, sizeof from_); {' '.join(puts)} }}"


@opcode("st")
def store(op: Op, scope: Scope) -> str:
    """One, two or four values."""
    kind = _bits_of(op.type(FLOATS | INTEGERS | UNTYPED))
    address, source = op.take(2)
    names = _vector(op, source)
    space = _space(op)
    _ignore_order(op)
    if space == "const":
        raise op.refuse("a store to constant memory")
    pointer = scope.pointer(op, address, space, types.size(kind) * len(names), write=True)
    values = ", ".join(scope.value(op, name, kind, wider=True) for name in names)
    return f"{{ {types.c_type(kind)} to_[] = {{{values}}}; memcpy({pointer}, to_, sizeof to_); }}"


@opcode("atom", "red")
def atomic(op: Op, scope: Scope) -> str:
    """Read, change and write at once; `red` does not return the old value."""
    name = op.one(_ATOMIC)
    allowed, change = _ATOMIC[name]
    kind = op.type(allowed)
    space = _space(op)
    _ignore_order(op)
    if kind == "f32":
        op.flag("ftz")
    operands = list(op.operands)
    target = operands.pop(0) if op.name == "atom" and operands else "_"
    if len(operands) != (3 if name == "cas" else 2) or space not in ("global", "shared", "generic"):
        raise op.refuse("operands or memory space that are not known")
    c_type = types.c_type(kind)
    pointer = scope.pointer(op, operands[0], space, types.size(kind), write=True)
    values = [
        f"{c_type} {letter}_ = {scope.value(op, v, kind)};" for letter, v in zip("xy", operands[1:], strict=False)
    ]
    if name == "add" and kind in FLOATS:
        change = _float_sum(op, kind, space)
    result = scope.assign(op, target, kind, "old_")
    return (
        f"{{ char *at_ = {pointer}; {' '.join(values)} {c_type} old_; memcpy(&old_, at_, sizeof old_); "
        f"{c_type} new_ = {change}; memcpy(at_, &new_, sizeof new_); {result} }}"
    )


def _float_sum(op: Op, kind: str, space: str) -> str:
    """PTX ISA, atom: float32 sums flush subnormals in global memory and keep them in shared memory."""
    if kind == "f64":
        return "old_ + x_"
    if space == "generic":
        raise op.refuse("a float32 sum in generic memory")
    return "one_nan(old_ + x_)" if space == "shared" else "flush(one_nan(flush(old_) + flush(x_)))"


@opcode("prefetch", "prefetchu")
def prefetch(op: Op, scope: Scope) -> str:
    """A hint."""
    op.one(("global", "local"), "")
    op.one(("L1", "L2"))
    scope.base(op, op.take(1)[0].strip("[] "))
    return ";"
