"""Every name that the CUDA device takes from CuPy is in the installed wheel, and every call fits its signature."""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Callable
from typing import Any

import pytest

pytestmark = pytest.mark.kernels
cupy = pytest.importorskip("cupy", reason="not run: CuPy is not installed (extra kernels)")

from calib_gpu.backend import cupy_  # noqa: E402

TREE = ast.parse(inspect.getsource(cupy_))
ROOTS = {"cupy": cupy, "runtime": cupy.cuda.runtime, "driver": cupy.cuda.driver}


def dotted(node: ast.expr) -> str | None:
    """``a.b.c`` of an attribute chain that begins with CuPy."""
    names: list[str] = []
    while isinstance(node, ast.Attribute):
        names.insert(0, node.attr)
        node = node.value
    return ".".join([node.id, *names]) if isinstance(node, ast.Name) and node.id in ROOTS and names else None


def resolve(name: str) -> Any:
    first, *rest = name.split(".")
    found = ROOTS[first]
    for part in rest:
        found = getattr(found, part)
    return found


USED = sorted({name for node in ast.walk(TREE) if isinstance(node, ast.Attribute) and (name := dotted(node))})
CALLS = [(name, node) for node in ast.walk(TREE) if isinstance(node, ast.Call) and (name := dotted(node.func))]


def parameters(function: Callable[..., Any]) -> list[str] | None:
    """Names of the parameters, from the signature or the first line of the docstring; None where neither tells."""
    try:
        found = [p for p in inspect.signature(function).parameters.values() if p.name != "self"]
        if not any(p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD) for p in found):
            return [p.name for p in found]
    except (ValueError, TypeError):
        pass
    told = re.match(r"[\w.]+\((.*?)\)", (function.__doc__ or "").strip().split("\n")[0])
    if told is None:
        return None
    if "**" in told[1] or "*args" in told[1]:
        return None
    return [re.split(r"[\s*]+", part.split("=")[0].strip())[-1] for part in told[1].split(",") if part.strip()]


@pytest.mark.parametrize("name", USED)
def test_the_name_is_there(name: str) -> None:
    resolve(name)


@pytest.mark.parametrize(("name", "call"), CALLS, ids=lambda v: v if isinstance(v, str) else str(v.lineno))
def test_the_call_fits_the_signature(name: str, call: ast.Call) -> None:
    found = parameters(resolve(name))
    if found is None:
        assert name in TESTED_BY_BEING_CALLED
        return
    assert not any(isinstance(a, ast.Starred) for a in call.args)
    assert len(call.args) <= len(found), f"{name}{found}"
    assert {k.arg for k in call.keywords} <= set(found), f"{name}{found}"


TESTED_BY_BEING_CALLED = {
    "cupy.cuda.Event", "cupy.cuda.MemoryPointer", "cupy.cuda.PinnedMemoryPointer", "cupy.ndarray", "cupy.ElementwiseKernel",
    "cupy.ReductionKernel", "cupy.RawModule", "cupy.cuda.PinnedMemory", "cupy.cuda.Memory", "cupy.cuda.Stream",
}  # fmt: skip
"""Classes whose wheel tells no signature: kernels are made in the tests, the rest by the self-test on a GPU."""


METHODS = [(cupy.cuda.Event, "record", 1), (cupy.cuda.Event, "synchronize", 0), (cupy.cuda.Stream, "wait_event", 1)]
"""Methods that are called on objects, and with how many arguments."""


@pytest.mark.parametrize(("of", "name", "n"), METHODS, ids=str)
def test_methods_are_there(of: Any, name: str, n: int) -> None:
    found = parameters(getattr(of, name))
    assert found is None or len(found) >= n
