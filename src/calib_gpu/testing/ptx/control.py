"""Branches, calls, barriers and what the threads of a warp tell each other."""

from __future__ import annotations

from calib_gpu.testing.ptx import types
from calib_gpu.testing.ptx.function import Scope, c_name, integer
from calib_gpu.testing.ptx.instruction import Op, opcode
from calib_gpu.testing.ptx.module import Variable


@opcode("bra")
def branch(op: Op, scope: Scope) -> str:
    """A jump."""
    op.flag("uni")
    return f"goto {c_name(op.take(1)[0])};"


@opcode("brx")
def indexed_branch(op: Op, scope: Scope) -> str:
    """A jump to one of several labels."""
    if not op.flag("idx"):
        raise op.refuse("brx is only known as brx.idx")
    op.flag("uni")
    index, table = op.take(2)
    targets = scope.targets.get(table)
    if targets is None:
        raise op.refuse(f"{table} is no list of branch targets")
    cases = " ".join(f"case {i}: goto {c_name(label)};" for i, label in enumerate(targets.labels))
    return (
        f"switch ({scope.value(op, index, 'u32')}) {{ {cases} default: fault(t, FAULT_BRANCH, 0, 0, 0, {op.line}); }}"
    )


@opcode("ret", "exit")
def leave(op: Op, scope: Scope) -> str:
    """The end of the function (`ret`) or of the thread (`exit`)."""
    op.flag("uni")
    op.take(0)
    if op.name == "exit" and not scope.function.entry:
        raise op.refuse("exit within a device function")
    return "return;"


@opcode("trap")
def trap(op: Op, scope: Scope) -> str:
    """A fault on purpose."""
    op.take(0)
    return f"fault(t, FAULT_TRAP, 0, 0, 0, {op.line});"


@opcode("call")
def call(op: Op, scope: Scope) -> str:
    """A call of a device function with its parameters in memory."""
    op.flag("uni")
    operands = list(op.operands)
    returned = operands.pop(0).strip("() ") if operands and operands[0].startswith("(") else ""
    name = operands.pop(0) if operands else ""
    if name == "__assertfail":
        return f"fault(t, FAULT_ASSERT, 0, 0, 0, {op.line});"
    function = scope.functions.get(name)
    if function is None or function.body is None:
        raise op.refuse(f"a call of {name}, which the module does not define")
    given = operands[0].strip("() ") if operands else ""
    names = [part.strip() for text in (returned, given) for part in text.split(",") if part.strip()]
    wanted = (*function.returns, *function.params)
    if len(operands) > 1 or len(names) != len(wanted):
        raise op.refuse(f"a call of {name} with other arguments than it has")
    for part, want in zip(names, wanted, strict=True):
        have = scope.find(part)
        if not isinstance(have, Variable) or have.size != want.size:
            raise op.refuse(f"argument {part} of {name}, which needs {want.size} bytes")
    scope.calls.add(name)
    return f"f_{c_name(name)}(t{''.join(f', {c_name(part)}' for part in names)});"


@opcode("bar", "barrier")
def barrier(op: Op, scope: Scope) -> str:
    """All threads of the block wait for each other; `bar.red` also counts or joins their predicates."""
    op.flag("cta")
    kind = op.modifiers[0] if op.modifiers else ""
    scope.needs_fibres = True
    if kind == "warp":
        op.flag("warp")
        op.one(("sync",))
        return f"warp_meet(t, {scope.value(op, op.take(1)[0], 'u32')}, 0, {op.line});"
    op.flag("aligned")
    if kind == "red":
        return _reducing_barrier(op, scope)
    op.one(("sync",))
    return f"block_meet(t, {_barrier_number(op, op.take(1)[0])}, 0, {op.line});"


def _barrier_number(op: Op, text: str) -> int:
    if not text.isdigit() or integer(text) > 15:
        raise op.refuse("a barrier that is not a number from 0 to 15")
    return integer(text)


def _reducing_barrier(op: Op, scope: Scope) -> str:
    op.flag("red")
    how = op.one(("popc", "and", "or"))
    kind = op.type({"u32"} if how == "popc" else {"pred"})
    target, number, predicate = op.take(3)
    given = scope.value(op, predicate, "pred")
    count = f"block_meet(t, {_barrier_number(op, number)}, {given}, {op.line})"
    value = {"popc": count, "and": f"{count} == launch.threads", "or": f"{count} != 0"}[how]
    return scope.assign(op, target, kind, value)


@opcode("membar", "fence")
def fence(op: Op, scope: Scope) -> str:
    """Order of memory, which threads that run one after the other keep anyway."""
    op.one(("sc", "acq_rel", "acquire", "release"), "")
    op.one(("cta", "gl", "gpu", "sys", "cluster"))
    op.take(0)
    return ";"


@opcode("vote")
def vote(op: Op, scope: Scope) -> str:
    """What the predicates of a warp's threads have in common."""
    if not op.flag("sync"):
        raise op.refuse("vote is only known as vote.sync")
    scope.needs_fibres = True
    how = op.one(("all", "any", "uni", "ballot"))
    kind = op.type({"b32"} if how == "ballot" else {"pred"})
    target, predicate, mask = op.take(3)
    members = scope.value(op, mask, "u32")
    votes = f"warp_ballot(t, {members}, {scope.value(op, predicate, 'pred')}, {op.line})"
    tests = {"ballot": "votes_", "any": "votes_ != 0", "all": f"votes_ == {members}"}
    tests["uni"] = f"votes_ == 0 || votes_ == {members}"
    return f"{{ uint32_t votes_ = {votes}; {scope.assign(op, target, kind, tests[how])} }}"


@opcode("shfl")
def shuffle(op: Op, scope: Scope) -> str:
    """The value of another thread of the warp."""
    if not op.flag("sync"):
        raise op.refuse("shfl is only known as shfl.sync")
    scope.needs_fibres = True
    mode = op.one(("up", "down", "bfly", "idx"))
    kind = op.type({"b32"})
    target, *operands = op.take(5)
    value, valid = target.split("|") if "|" in target else (target, "_")
    a, b, c, mask = (scope.value(op, operand, "u32") for operand in operands)
    there = scope.assign(op, valid, "pred", "valid_") if valid != "_" else ""
    moved = f"warp_shuffle(t, {mask}, SHUFFLE_{mode.upper()}, {a}, {b}, {c}, &valid_, {op.line})"
    return f"{{ int valid_; uint32_t moved_ = {moved}; {scope.assign(op, value, kind, 'moved_')} {there} }}"


@opcode("redux")
def reduce_warp(op: Op, scope: Scope) -> str:
    """The sum, least, greatest or joined value of a warp's threads."""
    if not op.flag("sync"):
        raise op.refuse("redux is only known as redux.sync")
    scope.needs_fibres = True
    how = op.one(("add", "min", "max", "and", "or", "xor"))
    kind = op.type({"b32"} if how in ("and", "or", "xor") else {"u32", "s32"})
    target, a, mask = op.take(3)
    step = {"add": "sum_ + x_", "min": "x_ < sum_ ? x_ : sum_", "max": "x_ > sum_ ? x_ : sum_",
            "and": "sum_ & x_", "or": "sum_ | x_", "xor": "sum_ ^ x_"}[how]  # fmt: skip
    c_type = types.c_type(kind)
    members = scope.value(op, mask, "u32")
    return (
        f"{{ uint32_t mask_ = {members}; warp_meet(t, mask_, {scope.value(op, a, 'u32')}, {op.line}); "
        f"int first_ = __builtin_ctz(mask_); {c_type} sum_ = ({c_type})warp_of(t, first_); "
        f"for (int i_ = first_ + 1; i_ < 32; i_++) if (mask_ >> i_ & 1u) "
        f"{{ {c_type} x_ = ({c_type})warp_of(t, i_); sum_ = {step}; }} {scope.assign(op, target, kind, 'sum_')} }}"
    )
