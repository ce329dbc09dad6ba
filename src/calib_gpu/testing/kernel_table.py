"""What every kernel takes of a GPU, as the table of ``docs/kernels.md``; nothing of it needs a GPU."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from calib_gpu.backend.kernels import Specialisation, specialisations
from calib_gpu.testing.compiled_kernels import compiled
from calib_gpu.testing.nvrtc import library_for
from calib_gpu.testing.ptx.module import parse
from calib_gpu.testing.ptx.translate import translate
from calib_gpu.testing.resources import Resources, Widths, ptx_widths, resources

ARCHS = ("75", "80", "86", "89", "90", "100", "120")
PTX_ARCH = "80"
"""The architecture whose PTX tells widths and approximations."""


@dataclass(frozen=True)
class Row:
    """One specialisation.

    Parameters
    ----------
    name
        As "calibrate_tile<int32, float64>".
    resources
        What ptxas says, by architecture.
    widths
        Of the global loads and stores of its PTX.
    approximate
        Instructions whose last bits only the device knows, and sums that may be contracted.
    """

    name: str
    resources: dict[str, Resources]
    widths: Widths
    approximate: frozenset[str]

    @property
    def spills(self) -> int:
        """Bytes of spills, the most of all architectures."""
        return max(r.spills for r in self.resources.values())


def measure(spec: Specialisation, archs: Sequence[str] = ARCHS) -> Row:
    """Compile a specialisation for all architectures."""
    entry = spec.kernel.name
    ptx = compiled(spec, PTX_ARCH).text
    found = {arch: resources(compiled(spec, arch, "cubin"))[entry] for arch in archs}
    return Row(spec.name, found, ptx_widths(ptx, entry), translate(parse(ptx), entry).approximate)


def rows(archs: Sequence[str] = ARCHS) -> Iterable[Row]:
    """All that the engine can launch."""
    return (measure(spec, archs) for spec in specialisations())


def complaints(found: Iterable[Row]) -> list[str]:
    """What must not be: spills, local memory, and sums that ptxas may contract."""
    bad = []
    for row in found:
        for arch, r in row.resources.items():
            parts = {"spills": r.spills, "local memory": r.stack}
            bad += [f"{row.name}: {size} bytes of {what} for sm_{arch}" for what, size in parts.items() if size]
        bad += [f"{row.name}: {name}" for name in sorted(row.approximate) if "contracted" in name]
    return bad


def as_markdown(found: Sequence[Row], archs: Sequence[str] = ARCHS) -> str:
    """The table, with the version of the compiler above it."""
    version = ".".join(map(str, library_for(archs[-1]).version))
    head = ("kernel", *(f"sm_{arch}" for arch in archs), "spills", "stack", "shared", "loads", "stores", "approximate")
    lines = [head, ("---",) * len(head), *(_cells(row, archs) for row in found)]
    table = "\n".join("| " + " | ".join(line) + " |" for line in lines)
    return f"NVRTC {version}. {len(found)} specialisations.\n\n{table}"


def _cells(row: Row, archs: Sequence[str]) -> tuple[str, ...]:
    numbers = [str(row.resources[arch].registers) for arch in archs]
    stack, shared = (max(getattr(r, name) for r in row.resources.values()) for name in ("stack", "shared"))
    approximate = ", ".join(f"`{name}`" for name in sorted(row.approximate))
    widths = (_widths(row.widths.loads), _widths(row.widths.stores))
    return (f"`{row.name}`", *numbers, str(row.spills), str(stack), str(shared), *widths, approximate)


def _widths(counts: dict[int, int]) -> str:
    """E.g. "16 (2), 4 (1)": widest first, how many in parentheses."""
    return ", ".join(f"{width} ({number})" for width, number in sorted(counts.items(), reverse=True))
