"""One function of PTX to one C function: scopes, registers, operands, addresses."""

from __future__ import annotations

import re

from calib_gpu.testing.ptx import types
from calib_gpu.testing.ptx.instruction import HANDLERS, Op
from calib_gpu.testing.ptx.module import Brace, Function, Instruction, Label, Registers, Targets, Variable

SPECIAL = {f"%{name}.{axis}": f"t->{name}.{axis}" for name in ("tid", "ctaid") for axis in "xyz"}
SPECIAL |= {f"%{name}.{axis}": f"launch.{name}.{axis}" for name in ("ntid", "nctaid") for axis in "xyz"}
SPECIAL["%laneid"] = "(t->linear & 31u)"
SPECIAL["WARP_SZ"] = "32u"
SPECIAL |= {
    "%lanemask_eq": "(1u << (t->linear & 31u))",
    "%lanemask_lt": "((1u << (t->linear & 31u)) - 1u)",
    "%lanemask_le": "(((1u << (t->linear & 31u)) << 1) - 1u)",
    "%lanemask_gt": "(~(((1u << (t->linear & 31u)) << 1) - 1u))",
    "%lanemask_ge": "(~((1u << (t->linear & 31u)) - 1u))",
}

_INTEGER = re.compile(r"-?(?:0[xX][0-9a-fA-F]+|0[bB][01]+|\d+)U?")
_SYMBOL = re.compile(r"([%$\w]+)(?:\s*\+\s*(-?\d+))?")
_ADDRESS = re.compile(r"\[\s*([%$\w]+)(?:\s*\+\s*(-?\d+))?\s*\]")


def c_name(name: str) -> str:
    """A name of PTX as one of C, without collisions."""
    return "p_" + name.replace("_", "__").replace("%", "_r").replace("$", "_d")


def integer(text: str) -> int:
    """The value of an integer literal; a leading 0 makes it octal, as in C."""
    text = text.rstrip("U")
    sign, digits = (-1, text[1:]) if text.startswith("-") else (1, text)
    octal = len(digits) > 1 and digits[0] == "0" and digits[1].isdigit()
    return sign * int(digits, 8 if octal else 0)


class Scope:
    """What the handlers of instructions ask: values, assignments, addresses.

    Parameters
    ----------
    function
        The function that is translated.
    memory
        Variables of the module by name.
    offsets
        Byte offsets of shared and local variables and of the parameters of an entry.
    functions
        The functions of the module by name, for calls.
    """

    def __init__(
        self, function: Function, memory: dict[str, Variable], offsets: dict[str, int], functions: dict[str, Function]
    ) -> None:
        self.function, self.offsets, self.functions = function, offsets, functions
        self.frames: list[dict[str, str | Variable | Targets]] = [dict(memory)]
        self.frames.append({v.name: v for v in (*function.params, *function.returns)})
        self.targets: dict[str, Targets] = {s.name: s for s in function.body or () if isinstance(s, Targets)}
        self.needs_fibres = False
        self.calls: set[str] = set()
        self.approximate: set[str] = set()

    # --- names

    def find(self, name: str) -> str | Variable | Targets | None:
        """The type of a register or the variable of that name, from the innermost scope outwards."""
        for frame in reversed(self.frames):
            if name in frame:
                return frame[name]
        return None

    def register(self, op: Op, name: str) -> str:
        """The type of a register."""
        found = self.find(name)
        if not isinstance(found, str):
            raise op.refuse(f"{name} is no register that was declared")
        return found

    # --- values

    def value(self, op: Op, operand: str, kind: str, wider: bool = False) -> str:
        """The C expression of an operand read as a type; `wider` lets a register be wider than the type."""
        if operand[:2] in ("0d", "0D", "0f", "0F") and not operand.startswith("0x"):
            return self._float_literal(op, operand, kind)
        if kind != "pred" and _INTEGER.fullmatch(operand):
            if kind in types.FLOATS:
                raise op.refuse(f"the integer {operand} where {kind} is expected")
            value = integer(operand) & (2 ** types.bits(kind) - 1)
            return f"(({types.c_type(kind)}){value}ull)"
        if operand in SPECIAL:
            if types.bits(kind) < 32 or kind in types.FLOATS:
                raise op.refuse(f"the 32-bit {operand} where {kind} is expected")
            return f"(({types.c_type(kind)}){SPECIAL[operand]})"
        if kind == "pred" and operand in ("0", "1", "-1"):
            return str(abs(int(operand)))
        negated = kind == "pred" and operand.startswith("!")
        name = operand.lstrip("!") if negated else operand
        have = self.register(op, name)
        fits = (have == "pred") == (kind == "pred") and (
            types.bits(have) == types.bits(kind) or (wider and types.bits(have) > types.bits(kind))
        )
        if not fits:
            raise op.refuse(f"register {name} of type {have} where {kind} is expected")
        text = c_name(name)
        if kind == "pred":
            return f"(!{text})" if negated else text
        if kind in types.FLOATS:
            return f"as_{kind}({text})"
        return f"(({types.c_type(kind)}){text})"

    def _float_literal(self, op: Op, operand: str, kind: str) -> str:
        width = 64 if operand[1] in "dD" else 32
        if len(operand) != 2 + width // 4 or types.bits(kind) != width or kind in types.INTEGERS:
            raise op.refuse(f"the literal {operand} where {kind} is expected")
        text = f"0x{operand[2:]}ull"
        return f"as_{kind}({text})" if kind in types.FLOATS else f"(({types.raw(kind)}){text})"

    def assign(self, op: Op, name: str, kind: str, expression: str, wider: bool = False) -> str:
        """The C statement that puts a value of a type into a register; `wider` extends it to a wider register."""
        if name == "_":
            return f"(void)({expression});"
        have = self.register(op, name)
        if kind == "pred" or have == "pred":
            if kind != have:
                raise op.refuse(f"a value of type {kind} into register {name} of type {have}")
            return f"{c_name(name)} = ({expression}) != 0;"
        if types.bits(have) != types.bits(kind) and not (wider and types.bits(have) > types.bits(kind)):
            raise op.refuse(f"a value of type {kind} into register {name} of type {have}")
        if kind in types.FLOATS:
            if types.bits(have) != types.bits(kind):
                raise op.refuse(f"a value of type {kind} into register {name} of type {have}")
            return f"{c_name(name)} = bits_{kind}({expression});"
        return f"{c_name(name)} = ({types.raw(have)})({types.c_type(kind)})({expression});"

    # --- addresses

    def base(self, op: Op, operand: str) -> tuple[str, Variable | None]:
        """The C expression (uint64_t) of an address, register or symbol with offset; and the variable of a symbol."""
        found = _SYMBOL.fullmatch(operand)
        if found is None:
            raise op.refuse(f"an address that cannot be read: {operand}")
        name, offset = found[1], int(found[2] or 0)
        what = self.find(name)
        if isinstance(what, Variable):
            return f"({self._symbol(what)} + {offset}ll)", what
        kind = self.register(op, name)
        if kind == "pred" or types.bits(kind) < 32:
            raise op.refuse(f"register {name} of type {kind} as an address")
        return f"((uint64_t){c_name(name)} + {offset}ll)", None

    def _symbol(self, variable: Variable) -> str:
        own_param = variable in self.function.params and self.function.entry
        if variable.space == "shared":
            return f"{self.offsets[variable.name]}ull"
        if variable.space == "local":
            return f"((uint64_t)(uintptr_t)t->local + {self.offsets[variable.name]}ull)"
        if own_param:
            return f"((uint64_t)(uintptr_t)launch.params + {self.offsets[variable.name]}ull)"
        return f"((uint64_t)(uintptr_t){c_name(variable.name)})"

    def pointer(self, op: Op, operand: str, space: str, size: int, write: bool) -> str:
        """The C expression (char *) of `[address]`, checked for place, alignment and permission when it runs."""
        found = _ADDRESS.fullmatch(operand)
        if found is None:
            raise op.refuse(f"an address that cannot be read: {operand}")
        inner = found[1] + (f"+{found[2]}" if found[2] else "")
        address, variable = self.base(op, inner)
        spaces = {"generic": {"global", "const"}}.get(space, {space})
        if variable is not None and variable.space not in spaces:
            raise op.refuse(f"{variable.name} lies in {variable.space} memory, not in {space}")
        if variable is not None and variable.count:
            offset = int(found[2] or 0)
            if not 0 <= offset <= variable.size - size:
                raise op.refuse(f"bytes outside of {variable.name}")
            if space == "param":
                return f"((char *)(uintptr_t){address})"
        return f"at_{space}(t, {address}, {size}u, {int(write)}, {op.line})"

    # --- the function

    def translate(self) -> str:
        """The C function."""
        lines = [f"{self.head()} {{", "uint32_t carry = 0; (void)carry;"]
        for statement in self.function.body or ():
            if isinstance(statement, Registers):
                self.frames[-1].update(statement.names)
                lines += [f"{types.raw(kind)} {c_name(name)} = 0;" for name, kind in statement.names.items()]
            elif isinstance(statement, Variable):
                self.frames[-1][statement.name] = statement
                if statement.space == "param":
                    lines.append(f"_Alignas(16) char {c_name(statement.name)}[{statement.size}];")
            elif isinstance(statement, Brace):
                self._brace(statement)
                lines.append("{" if statement.opens else "}")
            elif isinstance(statement, Label):
                lines.append(f"{c_name(statement.name)}:;")
            elif isinstance(statement, Instruction):
                lines.append(self._instruction(statement))
        return "\n".join([*lines, "}"])

    def head(self) -> str:
        """The head of the C function."""
        buffers = "" if self.function.entry else "".join(
            f", char *{c_name(v.name)}" for v in (*self.function.returns, *self.function.params)
        )  # fmt: skip
        return f"static void f_{c_name(self.function.name)}(Thread *t{buffers})"

    def _brace(self, brace: Brace) -> None:
        if brace.opens:
            self.frames.append({})
        else:
            self.frames.pop()

    def _instruction(self, instruction: Instruction) -> str:
        op = Op(instruction, self.function.name)
        handler = HANDLERS.get(op.name)
        if handler is None:
            raise op.refuse(f"unknown opcode {op.name}")
        statement = handler(op, self)
        op.done()
        if not instruction.guard:
            return statement
        guard = self.value(op, ("!" if instruction.negated else "") + instruction.guard, "pred")
        return f"if ({guard}) {{ {statement} }}"
