"""A module of PTX and one of its entries to one C source."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.resources import files

# the handlers of instructions register themselves
from calib_gpu.testing.ptx import arithmetic, control, convert, logic, memory, types  # noqa: F401
from calib_gpu.testing.ptx.errors import UnknownInstruction
from calib_gpu.testing.ptx.function import Scope, c_name, integer
from calib_gpu.testing.ptx.module import Function, Module, Variable


@dataclass(frozen=True)
class Translation:
    """The C source of an entry, with what a launch must know.

    Parameters
    ----------
    source
        C.
    entry
        The entry with its parameters.
    offsets
        Byte offset of each parameter.
    param_size, static_shared
        Bytes.
    dynamic_shared
        Whether the launch gives the size of further shared memory.
    approximate
        Instructions whose last bits only the device knows, and sums and products that may be contracted.
    opcodes
        All opcodes with their modifiers.
    """

    source: str
    entry: Function
    offsets: dict[str, int]
    param_size: int
    static_shared: int
    dynamic_shared: bool
    approximate: frozenset[str]
    opcodes: frozenset[str]


def translate(module: Module, name: str) -> Translation:
    """Translate an entry and all device functions that it calls."""
    entry = module.entry(name)
    param_offsets, param_size = _layout(entry.params)
    shared = [v for v in module.variables.values() if v.space == "shared"]
    shared += [
        s for f in module.functions.values() for s in f.body or () if isinstance(s, Variable) and s.space == "shared"
    ]
    fixed = [v for v in shared if v.count]
    shared_offsets, shared_size = _layout(fixed)
    dynamic = [v for v in shared if not v.count]
    if dynamic:
        shared_size = (shared_size + 15) // 16 * 16
    shared_offsets |= {v.name: shared_size for v in dynamic}

    functions, scopes, local_size = [], {}, 0
    wanted = [name]
    while wanted:
        function = module.functions[wanted.pop()]
        if function.name in scopes:
            continue
        local = [s for s in function.body or () if isinstance(s, Variable) and s.space == "local"]
        local_offsets, local_end = _layout(local, local_size)
        local_size = (local_end + 15) // 16 * 16
        offsets = shared_offsets | local_offsets | (param_offsets if function is entry else {})
        scope = Scope(function, module.variables, offsets, module.functions)
        functions.append(scope.translate())
        scopes[function.name] = scope
        wanted += sorted(scope.calls)
    _refuse_recursion(name, scopes)

    stored = [v for v in module.variables.values() if v.space in ("global", "const")]
    parts = [
        f"#define LOCAL_SIZE {local_size}ull",
        f"#define PARAM_SIZE {param_size}ull",
        f"#define STATIC_SHARED {shared_size}ull",
        f"#define FIBRES {int(any(s.needs_fibres for s in scopes.values()))}",
        f"#define ENTRY f_{c_name(name)}",
        _machine("values.h"),
        _machine("memory.h"),
        *(_definition(v, name) for v in stored),
        *(f"{scope.head()};" for scope in scopes.values()),
        *functions,
        _module_ranges(stored),
        _machine("machine.h"),
    ]
    approximate = frozenset().union(*(s.approximate for s in scopes.values()))
    opcodes = frozenset(
        s.opcode for f in scopes.values() for s in f.function.body or () if hasattr(s, "opcode")
    )  # fmt: skip
    c_source = "\n".join(parts)
    return Translation(c_source, entry, param_offsets, param_size, shared_size, bool(dynamic), approximate, opcodes)


def _machine(name: str) -> str:
    return (files("calib_gpu.testing.ptx") / "machine" / name).read_text()


def _layout(variables: list[Variable] | tuple[Variable, ...], start: int = 0) -> tuple[dict[str, int], int]:
    """Offsets of variables one after the other, each aligned, and the end."""
    offsets, end = {}, start
    for variable in variables:
        end = -(-end // variable.align) * variable.align
        offsets[variable.name] = end
        end += variable.size
    return offsets, end


def _refuse_recursion(name: str, scopes: dict[str, Scope]) -> None:
    def visit(current: str, above: tuple[str, ...]) -> None:
        if current in above:
            raise UnknownInstruction("a device function that calls itself", array=name, value=current)
        for called in scopes[current].calls:
            visit(called, (*above, current))

    visit(name, ())


def _definition(variable: Variable, kernel: str) -> str:
    """A variable of the module as a C array of bits."""
    values = []
    for text in variable.initial:
        if text[:2] in ("0d", "0D", "0f", "0F"):
            values.append(f"0x{text[2:]}ull")
        elif text.lstrip("-")[:1].isdigit():
            values.append(f"{integer(text) & (2 ** types.bits(variable.type) - 1)}ull")
        else:
            raise UnknownInstruction(f"initial value of {variable.name}", array=kernel, value=text)
    kind, align = types.raw(variable.type), max(variable.align, 16)
    return (
        f"_Alignas({align}) static {kind} {c_name(variable.name)}[{variable.count}] = {{{', '.join(values or ['0'])}}};"
    )


def _module_ranges(stored: list[Variable]) -> str:
    lines = [
        f"launch.ranges[launch.range_count++] = (Range){{(uint64_t)(uintptr_t){c_name(v.name)}, "
        f"(uint64_t)(uintptr_t){c_name(v.name)} + {v.size}u, {int(v.space == 'global')}, {v.space.upper()}_SPACE}};"
        for v in stored
    ]
    return "\n".join(["static void add_module_ranges(void) {", *lines, "}"])
