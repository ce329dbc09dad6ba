"""What can go wrong with PTX: an instruction that is not known, and a fault of a kernel while it runs."""

from __future__ import annotations

from calib_gpu.errors import CalibError


class PtxError(CalibError):
    """Something is wrong with PTX, its arguments or its run; ``array`` is the kernel."""


class UnknownInstruction(PtxError):
    """An opcode, modifier, type or directive that the translator does not know; it never guesses."""


class KernelFault(PtxError):
    """A kernel did while running what a GPU would stop it for, or leave undefined."""
