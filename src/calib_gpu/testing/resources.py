"""What a kernel takes of a GPU: registers, spills, shared memory, and the widths of its loads and stores."""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from calib_gpu.testing.nvrtc import Compiled, NvrtcError, wheel_files
from calib_gpu.testing.ptx import types
from calib_gpu.testing.ptx.module import Instruction, parse

_PTXAS_ENTRY = re.compile(r"Compiling entry function '([^']+)' for '([^']+)'")
_PTXAS_PROPERTIES = re.compile(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads")
_PTXAS_USED = re.compile(r"Used (\d+) registers(.*)")
_SASS = re.compile(r"\b(LDG|STG|LD|ST)((?:\.[A-Z0-9_]+)*)\s")
_SASS_WIDTH = re.compile(r"^(?:U|S)?(8|16|64|128|256)$")
_OTHER_SPACES = frozenset({"param", "shared", "local", "const", "shared::cta", "param::entry"})
_WHEELS = ("nvidia-cuda-nvdisasm", "nvidia-cuda-nvdisasm-cu12")


@dataclass(frozen=True)
class Resources:
    """What ptxas says of one entry; sizes in bytes."""

    registers: int
    spill_stores: int
    spill_loads: int
    stack: int
    shared: int
    constant: int

    @property
    def spills(self) -> int:
        """Bytes stored to and loaded from spilled registers."""
        return self.spill_stores + self.spill_loads


@dataclass(frozen=True)
class Widths:
    """How many global loads and stores of each width in bytes the code of a kernel has."""

    loads: dict[int, int]
    stores: dict[int, int]


def resources(compiled: Compiled) -> dict[str, Resources]:
    """What ptxas said of each entry of a cubin, by mangled name."""
    if compiled.kind != "cubin":
        raise NvrtcError("only a cubin has registers", value=compiled.kind, fix='compile with kind="cubin"')
    found: dict[str, Resources] = {}
    entry, frame = "", (0, 0, 0)
    for line in compiled.log.splitlines():
        if head := _PTXAS_ENTRY.search(line):
            entry, frame = head[1], (0, 0, 0)
        elif properties := _PTXAS_PROPERTIES.search(line):
            frame = (int(properties[1]), int(properties[2]), int(properties[3]))
        elif (used := _PTXAS_USED.search(line)) and entry:
            shared = sum(int(n) for n in re.findall(r"(\d+) bytes smem", used[2]))
            constant = sum(int(n) for n in re.findall(r"(\d+) bytes cmem", used[2]))
            found[entry] = Resources(int(used[1]), frame[1], frame[2], frame[0], shared, constant)
    if not found:
        raise NvrtcError("the log of ptxas names no entry", array=f"sm_{compiled.arch}", value=compiled.log[:500])
    return found


def ptx_widths(ptx: str, entry: str) -> Widths:
    """Widths of the global and generic loads and stores of an entry, from its PTX."""
    loads: Counter[int] = Counter()
    stores: Counter[int] = Counter()
    for statement in parse(ptx).entry(entry).body or ():
        if not isinstance(statement, Instruction):
            continue
        name, *modifiers = statement.opcode.split(".")
        if name in ("ld", "st") and not _OTHER_SPACES.intersection(modifiers):
            number = int(next((m[1:] for m in modifiers if m in ("v2", "v4", "v8")), "1"))
            (loads if name == "ld" else stores)[number * types.size(modifiers[-1])] += 1
    return Widths(dict(sorted(loads.items())), dict(sorted(stores.items())))


def nvdisasm() -> Path | None:
    """The disassembler, from its wheel or the path; None where it is absent."""
    for path in wheel_files(_WHEELS, "nvdisasm"):
        if path.name == "nvdisasm":
            return path
    found = shutil.which("nvdisasm")
    return Path(found) if found else None


def sass(compiled: Compiled) -> str:
    """The machine code of a cubin as text."""
    tool = nvdisasm()
    if tool is None:
        raise NvrtcError("nvdisasm is absent", fix="pip install nvidia-cuda-nvdisasm")
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(compiled.code)
        file.flush()
        done = subprocess.run([str(tool), "-c", file.name], capture_output=True, text=True, check=False)
    if done.returncode:
        raise NvrtcError("nvdisasm does not read the cubin", array=f"sm_{compiled.arch}", value=done.stderr[:500])
    return done.stdout


def sass_widths(compiled: Compiled, entry: str) -> Widths:
    """Widths of the global and generic loads and stores of an entry, from the machine code."""
    loads: Counter[int] = Counter()
    stores: Counter[int] = Counter()
    inside = False
    for line in sass(compiled).splitlines():
        if line.startswith(".text."):
            inside = line.strip() == f".text.{entry}:"
        found = _SASS.search(line) if inside else None
        if found:
            parts = [m for m in found[2].split(".") if m]
            width = next((int(w[1]) for part in parts if (w := _SASS_WIDTH.match(part))), 32)
            (loads if found[1].startswith("LD") else stores)[width // 8] += 1
    return Widths(dict(sorted(loads.items())), dict(sorted(stores.items())))
