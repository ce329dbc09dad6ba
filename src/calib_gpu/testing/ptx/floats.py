"""Arithmetic of float32 and float64."""

from __future__ import annotations

from calib_gpu.testing.ptx.function import Scope
from calib_gpu.testing.ptx.instruction import ROUNDINGS, Op
from calib_gpu.testing.ptx.types import FLOATS


class Float:
    """How an instruction treats float32: `.ftz` flushes subnormals of operands and result, `.sat` clamps to [0, 1]."""

    def __init__(self, op: Op, kind: str) -> None:
        self.kind = kind
        self.ftz = kind == "f32" and op.flag("ftz")
        self.sat = kind == "f32" and op.flag("sat")

    def read(self, op: Op, scope: Scope, operand: str) -> str:
        """An operand."""
        value = scope.value(op, operand, self.kind)
        return f"flush({value})" if self.ftz else value

    def result(self, value: str) -> str:
        """A result, with the one NaN that float32 arithmetic gives."""
        value = f"one_nan({value})" if self.kind == "f32" else value
        value = f"flush({value})" if self.ftz else value
        return f"saturate({value})" if self.sat else value


def calculate(op: Op, scope: Scope, kind: str, number: int) -> str:
    """An operation of IEEE 754 with `number` operands and one rounding: the C function NAME_ROUNDING_TYPE."""
    how = Float(op, kind)
    rounding = op.one(ROUNDINGS, "")
    if not rounding:
        if op.name not in ("add", "sub", "mul"):
            raise op.refuse(f"{op.name} without a rounding")
        scope.approximate.add(f"{op.instruction.opcode} (may be contracted to fma)")
    target, *operands = op.take(number + 1)
    values = ", ".join(how.read(op, scope, operand) for operand in operands)
    return scope.assign(op, target, kind, how.result(f"{op.name}_{rounding or 'rn'}_{kind}({values})"))


def approximate(op: Op, scope: Scope, kind: str, number: int, form: str = "approx") -> str:
    """An operation whose last bits only the device knows; here it is rounded from float64, and noted."""
    how = Float(op, kind)
    scope.approximate.add(op.instruction.opcode)
    target, *operands = op.take(number + 1)
    values = ", ".join(how.read(op, scope, operand) for operand in operands)
    return scope.assign(op, target, kind, how.result(f"{op.name}_{form}_{kind}({values})"))


def divide(op: Op, scope: Scope, kind: str) -> str:
    """`div`: rounded, or approximate in float32."""
    if kind == "f32" and (op.flag("approx") or op.flag("full")):
        return approximate(op, scope, kind, 2)
    return calculate(op, scope, kind, 2)


def root_or_reciprocal(op: Op, scope: Scope) -> str:
    """`sqrt`, `rcp`, `rsqrt`: rounded, or approximate; rcp.approx.ftz.f64 is the seed of a division."""
    kind = op.type(FLOATS)
    if not op.flag("approx"):
        if op.name == "rsqrt":
            raise op.refuse("rsqrt is only known as an approximation")
        return calculate(op, scope, kind, 1)
    if kind == "f64" and op.flag("ftz"):
        return approximate(op, scope, kind, 1, "seed")
    if kind == "f64" and op.name != "rsqrt":
        raise op.refuse(f"{op.name}.approx.f64 is only known as rcp.approx.ftz")
    return approximate(op, scope, kind, 1)


def transcendental(op: Op, scope: Scope) -> str:
    """`ex2`, `lg2`, `sin`, `cos`, `tanh` of float32."""
    if not op.flag("approx"):
        raise op.refuse(f"{op.name} is only known as an approximation")
    return approximate(op, scope, op.type({"f32"}), 1)


def fma(op: Op, scope: Scope) -> str:
    """a*b + c with one rounding."""
    return calculate(op, scope, op.type(FLOATS), 3)


def extreme(op: Op, scope: Scope, kind: str) -> str:
    """`min` and `max`: a number wins over NaN, unless `.NaN` asks for it; -0 is less than +0."""
    how = Float(op, kind)
    suffix = "_nan" if op.flag("NaN") else ""
    target, a, b = op.take(3)
    value = f"{op.name}{suffix}_{kind}({how.read(op, scope, a)}, {how.read(op, scope, b)})"
    return scope.assign(op, target, kind, how.result(value))


def sign(op: Op, scope: Scope, kind: str) -> str:
    """`neg` and `abs`: they change the sign alone."""
    how = Float(op, kind)
    target, a = op.take(2)
    return scope.assign(op, target, kind, f"{op.name}_{kind}({how.read(op, scope, a)})")


def copysign(op: Op, scope: Scope) -> str:
    """`copysign d, a, b`: the sign of a with the magnitude of b."""
    kind = op.type(FLOATS)
    target, a, b = op.take(3)
    values = f"{scope.value(op, b, kind)}, {scope.value(op, a, kind)}"
    return scope.assign(op, target, kind, f"{'copysign' if kind == 'f64' else 'copysignf'}({values})")


def testp(op: Op, scope: Scope) -> str:
    """`testp`: the class of a float."""
    kind = op.type(FLOATS)
    test = op.one(("finite", "infinite", "number", "notanumber", "normal", "subnormal"))
    target, a = op.take(2)
    return scope.assign(op, target, "pred", f"is_{test}({scope.value(op, a, kind)})")
