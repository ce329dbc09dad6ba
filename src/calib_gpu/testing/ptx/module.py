"""PTX text to records: variables, functions and their statements. Meaning is given to them by ``function.py``."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from calib_gpu.testing.ptx import types
from calib_gpu.testing.ptx.errors import PtxError, UnknownInstruction

_COMMENT = re.compile(r"//[^\n]*|/\*.*?\*/", re.DOTALL)
_NO_CODE = re.compile(r"^[ \t]*\.(?:loc|file)\b[^\n]*", re.MULTILINE)
_LINKAGE = re.compile(r"\.(visible|extern|weak|common)\b\s*")
_VARIABLE = re.compile(
    r"\.(global|const|shared|local|param)\s+(?:\.align\s+(?P<align>\d+)\s+)?(?:\.ptr\s+(?:\.\w+\s+)?(?:\.align\s+\d+\s+)?)?"
    r"\.(?P<type>\w+)\s+(?:\.ptr\s+(?:\.\w+\s+)?(?:\.align\s+\d+\s+)?)?(?P<name>[%$\w]+)\s*(?P<array>\[\s*\d*\s*\])?"
    r"\s*(?:=\s*(?P<initial>.+))?",
    re.DOTALL,
)
_FUNCTION = re.compile(
    r"\.(entry|func)\s*(?:\((?P<returns>[^)]*)\))?\s*(?P<name>[$\w]+)\s*(?:\((?P<params>[^)]*)\))?(?P<limits>[^{;]*)",
    re.DOTALL,
)
_LIMITS = re.compile(r"\.(maxntid|reqntid|minnctapersm|maxnreg|noreturn)\b([\s\d,]*)")
_LABEL = re.compile(r"([$\w]+)\s*:(?!:)\s*")
_REGISTERS = re.compile(r"\.reg\s+\.(\w+)\s+(.+)", re.DOTALL)
_GUARD = re.compile(r"@(!?)\s*([%$\w]+)\s+")
_BRANCH_TARGETS = re.compile(r"\.branchtargets\s+(.+)", re.DOTALL)


@dataclass(frozen=True)
class Variable:
    """A named piece of memory.

    Parameters
    ----------
    name, space, type
        As in the PTX; `space` is global, const, shared, local or param.
    count
        Number of elements; 0 for shared memory whose size the launch gives.
    align
        Alignment in bytes.
    initial
        Values as text; elements beyond them are 0.
    """

    name: str
    space: str
    type: str
    count: int
    align: int
    initial: tuple[str, ...] = ()

    @property
    def size(self) -> int:
        """Size in bytes."""
        return self.count * types.size(self.type)


@dataclass(frozen=True)
class Instruction:
    """One instruction: the guard predicate ("" for none), opcode with modifiers, operands, line of the PTX."""

    opcode: str
    operands: tuple[str, ...]
    line: int
    guard: str = ""
    negated: bool = False


@dataclass(frozen=True)
class Label:
    """A place to branch to."""

    name: str


@dataclass(frozen=True)
class Registers:
    """Declared registers: name to type."""

    names: dict[str, str]


@dataclass(frozen=True)
class Targets:
    """The labels of an indexed branch."""

    name: str
    labels: tuple[str, ...]


@dataclass(frozen=True)
class Brace:
    """Begin or end of a scope."""

    opens: bool


Statement = Instruction | Label | Registers | Targets | Brace | Variable


@dataclass(frozen=True)
class Function:
    """An entry or a device function; `body` is None for a mere declaration; `max_threads` bounds the block."""

    name: str
    entry: bool
    returns: tuple[Variable, ...]
    params: tuple[Variable, ...]
    body: tuple[Statement, ...] | None
    max_threads: int | None = None


@dataclass
class Module:
    """A parsed PTX text; `lines` is the text by lines, for messages."""

    lines: list[str]
    variables: dict[str, Variable] = field(default_factory=dict)
    functions: dict[str, Function] = field(default_factory=dict)

    def entry(self, name: str) -> Function:
        """The entry of that name; PtxError names those there are."""
        found = self.functions.get(name)
        if found is None or not found.entry or found.body is None:
            there = ", ".join(f.name for f in self.functions.values() if f.entry)
            raise PtxError(
                "the PTX has no such entry", array=name, rule=f"entries: {there}", fix="give the name in the PTX"
            )
        return found


def parse(text: str) -> Module:
    """Parse the PTX text of a module."""
    module = Module(text.splitlines())
    text = _COMMENT.sub(lambda m: "\n" * m[0].count("\n"), text)
    text = _NO_CODE.sub("", text)
    text = re.sub(r"^[ \t]*\.(version|target|address_size)\b[^\n]*", "", text, flags=re.MULTILINE)
    at = 0
    while (at := _skip_space(text, at)) < len(text):
        start = at
        while linkage := _LINKAGE.match(text, at):
            at = linkage.end()
        if text.startswith((".entry", ".func"), at):
            at = _function(module, text, at)
        else:
            end = _end(text, at, ";")
            extern = ".extern" in text[start:at]
            variable = _variable(text[at:end].strip(), _line(text, at), extern)
            module.variables[variable.name] = variable
            at = end + 1
    return module


def _skip_space(text: str, at: int) -> int:
    while at < len(text) and text[at].isspace():
        at += 1
    return at


def _line(text: str, at: int) -> int:
    return text.count("\n", 0, at) + 1


def _end(text: str, at: int, mark: str) -> int:
    end = text.find(mark, at)
    if end < 0:
        raise UnknownInstruction(f"no {mark} ends what begins at line {_line(text, at)}", value=text[at : at + 60])
    return end


def _function(module: Module, text: str, at: int) -> int:
    head = _FUNCTION.match(text, at)
    if head is None:
        raise UnknownInstruction("a function whose head cannot be read", value=text[at : at + 80])
    limits = head["limits"]
    unknown = _LIMITS.sub("", limits).strip()
    if unknown:
        raise UnknownInstruction("unknown directive of a function", array=head["name"], value=unknown)
    returns, params = (_parameters(head[part] or "", _line(text, at)) for part in ("returns", "params"))
    body: tuple[Statement, ...] | None = None
    end = head.end()
    if text[end] == "{":
        close = _closing(text, end)
        body = tuple(_statements(text, end + 1, close))
    else:
        close = end
    known = module.functions.get(head["name"])
    if known is None or known.body is None:
        name, entry = head["name"], head[1] == "entry"
        module.functions[name] = Function(name, entry, returns, params, body, _max_threads(limits))
    return close + 1


def _max_threads(limits: str) -> int | None:
    found = None
    for name, numbers in _LIMITS.findall(limits):
        if name in ("maxntid", "reqntid"):
            found = 1
            for number in numbers.split(","):
                found *= int(number)
    return found


def _closing(text: str, at: int) -> int:
    depth = 0
    for brace in re.compile(r"[{}]").finditer(text, at):
        depth += 1 if brace[0] == "{" else -1
        if depth == 0:
            return brace.start()
    raise UnknownInstruction(f"no brace closes that of line {_line(text, at)}")


def _parameters(text: str, line: int) -> tuple[Variable, ...]:
    return tuple(_variable(part.strip(), line) for part in text.split(",") if part.strip())


def _variable(text: str, line: int, extern: bool = False) -> Variable:
    found = _VARIABLE.fullmatch(text)
    if found is None or found["type"] not in types.TYPES:
        raise UnknownInstruction(f"unknown declaration in line {line}", value=text)
    digits = (found["array"] or "[1]").strip("[] \t")
    count = int(digits or 0)
    space = found[1]
    if count == 0 and not (space == "shared" and extern):
        raise UnknownInstruction(f"an array without a size in line {line}", value=text)
    if extern and count:
        raise UnknownInstruction(f"a variable of another module in line {line}", value=text)
    initial = tuple(v.strip() for v in (found["initial"] or "").strip("{} \n\t").split(",") if v.strip())
    align = max(int(found["align"] or 1), types.size(found["type"]))
    return Variable(found["name"], space, found["type"], count, align, initial)


def _statements(text: str, at: int, end: int) -> Iterator[Statement]:
    while (at := _skip_space(text, at)) < end:
        line = _line(text, at)
        label = _LABEL.match(text, at, end)
        if text[at] in "{}":
            yield Brace(text[at] == "{")
            at += 1
        elif label:
            at = label.end()
            targets = _BRANCH_TARGETS.match(text, at)
            if targets:
                stop = _end(text, at, ";")
                names = text[at:stop].split(None, 1)[1]
                yield Targets(label[1], tuple(name.strip() for name in names.split(",")))
                at = stop + 1
            else:
                yield Label(label[1])
        else:
            stop = _end(text, at, ";")
            statement = text[at:stop].strip()
            at = stop + 1
            if statement and not statement.startswith(".pragma"):
                yield _statement(statement, line)


def _statement(text: str, line: int) -> Statement:
    if text.startswith(".reg"):
        return Registers(_registers(text, line))
    if text.startswith("."):
        return _variable(text, line)
    guard = _GUARD.match(text)
    rest = text[guard.end() :] if guard else text
    opcode, _, operands = rest.replace("\t", " ").replace("\n", " ").partition(" ")
    split = tuple(_split(operands))
    return Instruction(opcode, split, line, guard[2] if guard else "", bool(guard and guard[1]))


def _registers(text: str, line: int) -> dict[str, str]:
    found = _REGISTERS.fullmatch(text)
    if found is None or found[1] not in types.TYPES - {"u8", "s8", "b8"}:
        raise UnknownInstruction(f"unknown registers in line {line}", value=text)
    names: dict[str, str] = {}
    for part in found[2].split(","):
        base, _, number = part.strip().rstrip(">").partition("<")
        names.update({f"{base}{i}": found[1] for i in range(int(number))} if number else {base: found[1]})
    return names


def _split(operands: str) -> Iterator[str]:
    """Split at the commas that are outside of braces, brackets and parentheses."""
    depth, part = 0, ""
    for char in operands:
        depth += (char in "{[(") - (char in "}])")
        if char == "," and depth == 0:
            yield part.strip()
            part = ""
        else:
            part += char
    if part.strip():
        yield part.strip()
