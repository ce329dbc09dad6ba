"""Mutants of a module that orders work on a device: each loses, moves or mistakes one thing that keeps the order."""

from __future__ import annotations

import ast
import copy
import types
from collections.abc import Iterator
from dataclasses import dataclass

ORDERING = ("wait", "record", "synchronize", "clear", "settle")
EVENTS = ("uploaded", "computed", "downloaded")
STREAMS = ("upload", "compute", "download")


@dataclass(frozen=True)
class Mutant:
    """What was changed, and where; the changed module."""

    name: str
    tree: ast.Module

    def module(self, original: types.ModuleType) -> types.ModuleType:
        """The mutant, imported beside the original."""
        module = types.ModuleType(original.__name__)
        module.__dict__.update({"__file__": original.__file__, "__package__": original.__package__})
        exec(compile(self.tree, str(original.__file__), "exec"), module.__dict__)
        return module


RECEIVERS = ("device", "self.device", "self._device", "self._tiles", "desk", "self")
"""On what they are called: a lock that is waited for is none."""


def ordering_call(node: ast.stmt) -> tuple[ast.Call, str] | None:
    """The call of a statement that is one of :data:`ORDERING`, and its name."""
    if not (
        isinstance(node, ast.Expr) and isinstance(node.value, ast.Call) and isinstance(node.value.func, ast.Attribute)
    ):
        return None
    call, function = node.value, node.value.func
    known = function.attr in ORDERING and ast.unparse(function.value) in RECEIVERS
    known = known and (function.attr != "clear" or bool(call.args))  # a dict is cleared without arguments
    return (call, function.attr) if known else None


def is_text(node: ast.stmt) -> bool:
    """A docstring."""
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


def bodies(tree: ast.AST) -> Iterator[tuple[list[ast.stmt], str]]:
    """Every list of statements, and the function that it lies in."""

    def visit(node: ast.AST, function: str) -> Iterator[tuple[list[ast.stmt], str]]:
        if isinstance(node, ast.FunctionDef):
            function = node.name
        for name in ("body", "orelse", "finalbody"):
            statements = getattr(node, name, None)
            if isinstance(statements, list):
                yield statements, function
        for child in ast.iter_child_nodes(node):
            yield from visit(child, function)

    yield from visit(tree, "")


def sites(tree: ast.AST) -> list[tuple[list[ast.stmt], int, ast.Call, str, str]]:
    """Every ordering call: its list of statements, its place there, the call, its name, and what it is in words."""
    found = []
    for statements, function in bodies(tree):
        for i, statement in enumerate(statements):
            if (seen := ordering_call(statement)) is not None:
                found.append((statements, i, *seen, f"{function}: {ast.unparse(statement)}"))
    return found


def mutants(source: str) -> list[Mutant]:
    """All mutants of a module."""
    original = ast.parse(source)
    found: list[Mutant] = []

    def add(change: str, index: int, mutate: object) -> None:
        tree = copy.deepcopy(original)
        statements, i, call, _, text = sites(tree)[index]
        mutate(statements, i, call)  # type: ignore[operator]
        found.append(Mutant(f"{change} | {text}", ast.fix_missing_locations(tree)))

    def without(statements: list[ast.stmt], i: int, call: ast.Call) -> None:
        statements[i] = ast.copy_location(ast.Pass(), statements[i])

    def earlier(statements: list[ast.stmt], i: int, call: ast.Call) -> None:
        statements[i - 1], statements[i] = statements[i], statements[i - 1]

    for index, (statements, i, call, name, _) in enumerate(sites(original)):
        add("without", index, without)
        if name == "record" and i > 0 and not is_text(statements[i - 1]):
            add("one statement earlier", index, earlier)
        for n, argument in enumerate(call.args):
            for kind, names in (("event", EVENTS), ("stream", STREAMS)):
                if not isinstance(argument, ast.Attribute) or argument.attr not in names:
                    continue
                for other in sorted(set(names) - {argument.attr}):

                    def mistaken(
                        statements: list[ast.stmt], i: int, call: ast.Call, n: int = n, other: str = other
                    ) -> None:
                        given = call.args[n]
                        assert isinstance(given, ast.Attribute)
                        given.attr = other

                    add(f"{kind} {other} instead", index, mistaken)
    return found
