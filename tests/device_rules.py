"""Rules that keep the simulated device true to CUDA: what the CUDA device and those who use it may not contain.

Each rule takes the text of a module and gives what breaks it. Why: docs of CUDA on the default stream (its implicit order hides
faults), on pageable copies (they may wait), and of CuPy's pools (they hand blocks from stream to stream without an event).
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator

Rule = Callable[[str], list[str]]


def calls(source: str) -> Iterator[tuple[str, ast.Call, str]]:
    """Every call: what is called, the call, the function that it stands in."""

    def visit(node: ast.AST, function: str) -> Iterator[tuple[str, ast.Call, str]]:
        if isinstance(node, ast.FunctionDef):
            function = node.name
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), node, function
        for child in ast.iter_child_nodes(node):
            yield from visit(child, function)

    yield from visit(ast.parse(source), "")


def last(name: str) -> str:
    return name.rpartition(".")[2]


def keyword(call: ast.Call, name: str) -> str:
    """The text of a keyword argument; empty if it is not given."""
    return next((ast.unparse(k.value) for k in call.keywords if k.arg == name), "")


def non_blocking_streams_only(source: str) -> list[str]:
    """Every stream is made non-blocking, and none is the default one."""
    found = [f"{name}()" for name, call, _ in calls(source)
             if last(name) == "Stream" and keyword(call, "non_blocking") != "True"]  # fmt: skip
    default = {"null", "ptds", "get_current_stream", "use", "ExternalStream"}
    found += [ast.unparse(n) for n in ast.walk(ast.parse(source)) if isinstance(n, ast.Attribute) and n.attr in default]
    return found + [ast.unparse(n) for n in ast.walk(ast.parse(source)) if isinstance(n, ast.With) and "stream" in
                    ",".join(ast.unparse(i.context_expr) for i in n.items)]  # fmt: skip


def everything_names_its_stream(source: str) -> list[str]:
    """Copies and clears are asynchronous and end with the pointer of a stream; kernels are given a stream."""
    found = []
    for name, call, _ in calls(source):
        if last(name).startswith(("memcpy", "memset")):
            if not last(name).endswith("Async") or ast.unparse(call.args[-1]) != "stream.ptr":
                found.append(ast.unparse(call))
        elif name == "run" and keyword(call, "stream") != "stream":
            found.append(ast.unparse(call))
    return found


WAITING = {"get", "set", "item", "asnumpy", "asarray", "array", "tolist", "deviceSynchronize", "streamSynchronize",
           "empty_like", "zeros", "ones", "full", "copy_from", "copy_to", "copy_from_host", "copy_to_host"}  # fmt: skip
"""Calls of CuPy that wait, copy from pageable memory, or use the pools and the current stream."""


def nothing_waits_but_synchronize(source: str) -> list[str]:
    """The host waits in ``synchronize`` alone, for an event; nothing else of CuPy that may wait is called."""
    found = [
        ast.unparse(c) for name, c, _ in calls(source) if last(name) in WAITING and name.startswith(("cupy", "array"))
    ]
    found += [
        ast.unparse(c) for name, c, _ in calls(source) if last(name) in ("deviceSynchronize", "streamSynchronize")
    ]
    waits = [(name, function) for name, _, function in calls(source) if last(name) == "synchronize"]
    return found + [
        f"{name} in {function}" for name, function in waits if (name, function) != ("event.synchronize", "synchronize")
    ]


def no_pools(source: str) -> list[str]:
    """Memory comes from the driver itself."""
    pools = {
        "alloc",
        "alloc_pinned_memory",
        "MemoryPool",
        "PinnedMemoryPool",
        "MemoryAsyncPool",
        "malloc_async",
        "empty",
    }
    return [ast.unparse(c) for name, c, _ in calls(source) if name.startswith("cupy") and last(name) in pools]


def errors_are_translated(source: str) -> list[str]:
    """Every call into the runtime, of an event or of a stream lies under ``_cuda_errors()``."""
    found = []

    def visit(node: ast.AST, guarded: bool) -> None:
        if isinstance(node, ast.With):
            guarded = guarded or any("_cuda_errors" in ast.unparse(i.context_expr) for i in node.items)
        if isinstance(node, ast.Try):
            guarded = guarded or any("CUDARuntimeError" in ast.unparse(h.type) for h in node.handlers if h.type)
        if isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            risky = name.startswith(("runtime.", "event.", "stream.")) or name in (
                "run", "cupy.cuda.Memory", "cupy.cuda.PinnedMemory", "cupy.cuda.Stream", "cupy.cuda.Event"
            )  # fmt: skip
            if risky and not guarded and name != "runtime.driverGetVersion":
                found.append(ast.unparse(node))
        for child in ast.iter_child_nodes(node):
            visit(child, guarded)

    visit(ast.parse(source), False)
    return found


def allocated_before_the_loop(source: str) -> list[str]:
    """Slots, streams and events are made where the loop is set up, nowhere else."""
    return [
        f"{ast.unparse(call)} in {function}"
        for name, call, function in calls(source)
        if last(name) in ("pinned", "empty", "stream", "event")
        and "device" in name
        and function not in ("__init__", "_slot")
    ]


OWNERS = {"uploaded": "self.upload", "computed": "self.compute", "downloaded": "self.download"}


def events_belong_to_their_slot_and_stream(source: str) -> list[str]:
    """An event is recorded only by the slot that owns it, and only in the stream after which it is named."""
    found = []
    for name, call, _ in calls(source):
        if last(name) == "record":
            event, stream = map(ast.unparse, call.args)
            if not event.startswith("slot.") or OWNERS.get(last(event)) != stream:
                found.append(ast.unparse(call))
    return found


def host_memory_by_read_and_write_alone(source: str) -> list[str]:
    """What the checker does not see is not there: no way into a block but ``read`` and ``write``."""
    hidden = {"memory", "_bytes", "address", "ptr"}
    return [ast.unparse(n) for n in ast.walk(ast.parse(source)) if isinstance(n, ast.Attribute) and n.attr in hidden]


OF_CUDA: dict[Rule, str] = {
    non_blocking_streams_only: "def stream(self):\n    return cupy.cuda.Stream()",
    everything_names_its_stream: "def upload(self):\n    runtime.memcpyAsync(a, b, n, runtime.memcpyHostToDevice, 0)",
    nothing_waits_but_synchronize: "def download(self):\n    cupy.cuda.runtime.deviceSynchronize()",
    no_pools: "def empty(self, n):\n    return cupy.cuda.alloc(n)",
    errors_are_translated: "def record(self, event, stream):\n    event.record(stream)",
}
"""Rules of the CUDA device, each with a text that breaks it."""

OF_USERS: dict[Rule, str] = {
    host_memory_by_read_and_write_alone: "def f(slot):\n    return slot.pinned_in.memory",
}
"""Rules of all that uses a device."""

OF_LOOP: dict[Rule, str] = {
    allocated_before_the_loop: "def enqueue(self):\n    self.device.empty(4)",
    events_belong_to_their_slot_and_stream: "def enqueue(self, slot):\n    device.record(slot.computed, self.upload)",
}
"""Rules of the tile loop."""
