"""One instruction on its way to C: its modifiers are taken one by one, and what is left over is refused."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import TYPE_CHECKING

from calib_gpu.testing.ptx.errors import UnknownInstruction
from calib_gpu.testing.ptx.module import Instruction

if TYPE_CHECKING:
    from calib_gpu.testing.ptx.function import Scope

ROUNDINGS = ("rn", "rz", "rm", "rp")


class Op:
    """An instruction whose modifiers are being read.

    Parameters
    ----------
    instruction
        As parsed.
    kernel
        Name of the function, for messages.
    """

    def __init__(self, instruction: Instruction, kernel: str) -> None:
        self.instruction, self.kernel = instruction, kernel
        self.name, *self.modifiers = instruction.opcode.split(".")
        self.operands = instruction.operands
        self.line = instruction.line
        self.used = False

    def refuse(self, why: str) -> UnknownInstruction:
        """The error that says what is not known; the caller raises it."""
        text = f"{self.instruction.opcode} {', '.join(self.operands)}"
        return UnknownInstruction(
            f"{why} (line {self.line} of the PTX)",
            array=self.kernel,
            value=text,
            rule="only instructions whose meaning is certain are translated",
            fix="add the instruction to calib_gpu/testing/ptx with a test of its values, or write the kernel without it",
        )

    def flag(self, name: str) -> bool:
        """Take a modifier that may be there."""
        if name in self.modifiers:
            self.modifiers.remove(name)
            return True
        return False

    def one(self, choices: Collection[str], default: str | None = None) -> str:
        """Take the one modifier of a set; without a default it must be there."""
        found = [m for m in self.modifiers if m in choices]
        if len(found) > 1 or (not found and default is None):
            raise self.refuse(f"{self.name} needs one of {', '.join(sorted(choices))}")
        if not found:
            return str(default)
        self.modifiers.remove(found[0])
        return found[0]

    def type(self, allowed: Collection[str]) -> str:
        """Take the last modifier, a type."""
        if not self.modifiers or self.modifiers[-1] not in allowed:
            raise self.refuse(f"{self.name} is known for {', '.join(sorted(allowed))}")
        return self.modifiers.pop()

    def take(self, number: int) -> tuple[str, ...]:
        """The operands, whose number must be this."""
        if len(self.operands) != number:
            raise self.refuse(f"{self.name} with {len(self.operands)} operands, not {number}")
        return self.operands

    def done(self) -> None:
        """Refuse what no rule took."""
        if self.modifiers:
            raise self.refuse(f"unknown modifier {', '.join('.' + m for m in self.modifiers)} of {self.name}")


Handler = Callable[[Op, "Scope"], str]
HANDLERS: dict[str, Handler] = {}


def opcode(*names: str) -> Callable[[Handler], Handler]:
    """Register the function that translates these opcodes to a C statement."""

    def register(handler: Handler) -> Handler:
        for name in names:
            HANDLERS[name] = handler
        return handler

    return register
