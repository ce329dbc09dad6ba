"""Integer instructions, bits and conversions of PTX, against Python's integers and fractions."""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from one_instruction import evaluate, exact_round, grid, needs_compiler, same

pytestmark = [pytest.mark.kernels, needs_compiler]

NAN, INF = math.nan, math.inf
PTX = {"i2": "s16", "u2": "u16", "i4": "s32", "u4": "u32", "i8": "s64", "u8": "u64"}
ALL = sorted(PTX)
FROM_32 = [k for k in ALL if k[1] != "2"]


def corners(kind: str) -> list[int]:
    info = np.iinfo(kind)
    inner = [0, 1, 2, 3, 7, 100, 255, 12345]
    return sorted(
        {*inner, info.max, info.max - 1, info.max // 3, info.min, info.min + 1, *(-x for x in inner if info.min < 0)}
    )


def wrap(value: int, kind: str) -> int:
    """The value modulo the range of a type."""
    width = 8 * int(kind[1])
    value &= (1 << width) - 1
    return value - (1 << width) if kind[0] == "i" and value >> (width - 1) else value


def of(function: Callable[..., int], kind: str, *arrays: NDArray[Any]) -> NDArray[Any]:
    """A function of Python integers on each element, wrapped into a type."""
    return np.array([wrap(function(*(int(x) for x in xs)), kind) for xs in zip(*arrays, strict=True)], kind)


def truncated(a: int, b: int) -> int:
    return abs(a) // abs(b) * (1 if (a < 0) == (b < 0) else -1)


@pytest.mark.parametrize("kind", ALL)
def test_arithmetic(kind: str) -> None:
    a, b = grid(corners(kind), kind)
    c = np.roll(a, 5)
    width = 8 * int(kind[1])
    functions: dict[str, tuple[str, Callable[..., int]]] = {
        "add": ("add.T %d, %a, %b;", lambda x, y, _: x + y),
        "sub": ("sub.T %d, %a, %b;", lambda x, y, _: x - y),
        "lo": ("mul.lo.T %d, %a, %b;", lambda x, y, _: x * y),
        "hi": ("mul.hi.T %d, %a, %b;", lambda x, y, _: (x * y) >> width),
        "mad": ("mad.lo.T %d, %a, %b, %c;", lambda x, y, z: x * y + z),
        "madhi": ("mad.hi.T %d, %a, %b, %c;", lambda x, y, z: ((x * y) >> width) + z),
        "min": ("min.T %d, %a, %b;", lambda x, y, _: min(x, y)),
        "max": ("max.T %d, %a, %b;", lambda x, y, _: max(x, y)),
    }
    if kind[0] == "i":
        functions |= {"neg": ("neg.T %d, %a;", lambda x, *_: -x), "abs": ("abs.T %d, %a;", lambda x, *_: abs(x))}
    found = evaluate(
        {n: (t.replace("T", PTX[kind]), kind) for n, (t, _) in functions.items()}, {"a": a, "b": b, "c": c}
    )
    for name, (_, function) in functions.items():
        same(found[name], of(function, kind, a, b, c))


@pytest.mark.parametrize("kind", ALL)
def test_quotient_and_remainder_go_towards_zero(kind: str) -> None:
    a, b = grid(corners(kind), kind)
    a, b = a[b != 0], b[b != 0]
    found = evaluate({n: (f"{n}.{PTX[kind]} %d, %a, %b;", kind) for n in ("div", "rem")}, {"a": a, "b": b})
    same(found["div"], of(truncated, kind, a, b))
    same(found["rem"], of(lambda x, y: x - truncated(x, y) * y, kind, a, b))


@pytest.mark.parametrize(("kind", "wide"), [("i2", "i4"), ("u2", "u4"), ("i4", "i8"), ("u4", "u8")])
def test_wide_products(kind: str, wide: str) -> None:
    a, b = grid(corners(kind), kind)
    c = np.arange(a.size, dtype=wide) * 77777
    found = evaluate(
        {"mul": (f"mul.wide.{PTX[kind]} %d, %a, %b;", wide), "mad": (f"mad.wide.{PTX[kind]} %d, %a, %b, %c;", wide)},
        {"a": a, "b": b, "c": c},
    )
    same(found["mul"], of(lambda x, y, _: x * y, wide, a, b, c))
    same(found["mad"], of(lambda x, y, z: x * y + z, wide, a, b, c))


def test_carry_chains_are_128_bit_arithmetic() -> None:
    a, b = grid(corners("u8"), "u8")
    c = np.roll(a, 3)
    carry = "{{ .reg .b64 %low; {0}.cc.u64 %low, %a, %b; {1}.u64 %d, %c, %a; }}"
    found = evaluate(
        {
            "add": (carry.format("add", "addc"), "u8"),
            "sub": (carry.format("sub", "subc"), "u8"),
            "mad": ("{ .reg .b64 %low; mad.lo.cc.u64 %low, %a, %b, %c; madc.hi.u64 %d, %a, %b, %c; }", "u8"),
        },
        {"a": a, "b": b, "c": c},
    )
    same(found["add"], of(lambda x, y, z: ((z << 64) + x + (x << 64) + y) >> 64, "u8", a, b, c))
    same(found["sub"], of(lambda x, y, z: ((z << 64) + x - (x << 64) - y) >> 64, "u8", a, b, c))
    same(found["mad"], of(lambda x, y, z: (x * y + z + (z << 64)) >> 64, "u8", a, b, c))


@pytest.mark.parametrize("kind", ALL)
def test_comparison_and_selection(kind: str) -> None:
    a, b = grid(corners(kind), kind)
    tests: dict[str, Callable[[Any, Any], Any]] = {
        "eq": np.equal, "ne": np.not_equal, "lt": np.less, "le": np.less_equal, "gt": np.greater, "ge": np.greater_equal,
    }  # fmt: skip
    if kind[0] == "u":
        tests |= {"lo": np.less, "ls": np.less_equal, "hi": np.greater, "hs": np.greater_equal}
    instructions: dict[str, tuple[str, Any]] = {t: (f"setp.{t}.{PTX[kind]} %d, %a, %b;", "b1") for t in tests}
    instructions["selp"] = (
        f"{{ .reg .pred %q; setp.lt.{PTX[kind]} %q, %a, %b; selp.{PTX[kind]} %d, %a, %b, %q; }}",
        kind,
    )
    found = evaluate(instructions, {"a": a, "b": b})
    for name, function in tests.items():
        same(found[name], function(a, b))
    same(found["selp"], np.minimum(a, b))


@pytest.mark.parametrize("kind", ALL)
def test_shifts_beyond_the_width(kind: str) -> None:
    counts = np.array([0, 1, 7, 15, 16, 31, 32, 63, 64, 200], "u4")
    values = np.array(corners(kind), kind)
    a, n = np.repeat(values, counts.size), np.tile(counts, values.size)
    found = evaluate(
        {"shl": (f"shl.b{8 * int(kind[1])} %d, %a, %n;", kind), "shr": (f"shr.{PTX[kind]} %d, %a, %n;", kind)},
        {"a": a, "n": n},
    )
    same(found["shl"], of(lambda x, y: x << y, kind, a, n))
    same(found["shr"], of(lambda x, y: x >> y, kind, a, n))


@pytest.mark.parametrize("kind", ["u2", "u4", "u8"])
def test_logic(kind: str) -> None:
    a, b = grid(corners(kind), kind)
    width = 8 * int(kind[1])
    names = ("and", "or", "xor")
    found = evaluate(
        {
            **{n: (f"{n}.b{width} %d, %a, %b;", kind) for n in names},
            "not": (f"not.b{width} %d, %a;", kind),
            "cnot": (f"cnot.b{width} %d, %a;", kind),
        },
        {"a": a, "b": b},
    )
    same(found["and"], a & b)
    same(found["or"], a | b)
    same(found["xor"], a ^ b)
    same(found["not"], ~a)
    same(found["cnot"], (a == 0).astype(kind))


@pytest.mark.parametrize("kind", ["u4", "u8"])
def test_counts_of_bits(kind: str) -> None:
    width = 8 * int(kind[1])
    a = np.array([*corners(kind), 1 << (width - 1), 0x00F00000], kind)
    found = evaluate(
        {
            "popc": (f"popc.b{width} %d, %a;", "u4"),
            "clz": (f"clz.b{width} %d, %a;", "u4"),
            "brev": (f"brev.b{width} %d, %a;", kind),
            "bfind": (f"bfind.u{width} %d, %a;", "u4"),
            "signed": (f"bfind.s{width} %d, %a;", "u4"),
            "amount": (f"bfind.shiftamt.u{width} %d, %a;", "u4"),
        },
        {"a": a},
    )
    same(found["popc"], of(int.bit_count, "u4", a))
    same(found["clz"], of(lambda x: width - x.bit_length(), "u4", a))
    same(found["brev"], of(lambda x: int(f"{x:0{width}b}"[::-1], 2), kind, a))
    same(found["bfind"], of(lambda x: x.bit_length() - 1, "u4", a))
    same(found["amount"], of(lambda x: width - x.bit_length() if x else -1, "u4", a))
    signed = a.view(kind.replace("u", "i"))
    same(found["signed"], of(lambda x: (x if x >= 0 else ~x).bit_length() - 1, "u4", signed))


@pytest.mark.parametrize("kind", FROM_32)
def test_fields_of_bits(kind: str) -> None:
    width = 8 * int(kind[1])
    cells = [(x, p, n) for x in corners(kind) for p in (0, 3, width - 1, width, 255) for n in (0, 1, 5, width, 300)]
    x, p, n = (np.array([c[i] for c in cells], t) for i, t in enumerate((kind, "u4", "u4")))
    b = np.full(x.size, 0x5A5A5A5A, kind)

    def extract(value: int, start: int, length: int) -> int:
        length &= 255
        if not length:
            return 0
        bits = [value >> min(start + i, width - 1) & 1 if start + i < width else None for i in range(length)]
        fill = value >> min(start + length - 1, width - 1) & 1 if kind[0] == "i" else 0
        bits = [fill if bit is None else bit for bit in bits[:width]] + [fill] * (width - length)
        return sum(bit << i for i, bit in enumerate(bits) if bit)

    def insert(value: int, into: int, start: int, length: int) -> int:
        for i in range(min(length & 255, width)):
            if start + i < width:
                into = into & ~(1 << (start + i)) | (value >> i & 1) << (start + i)
        return into

    found = evaluate(
        {"bfe": (f"bfe.{PTX[kind]} %d, %x, %p, %n;", kind), "bfi": (f"bfi.b{width} %d, %x, %b, %p, %n;", kind)},
        {"x": x, "p": p, "n": n, "b": b},
    )
    same(found["bfe"], of(extract, kind, x, p, n))
    same(found["bfi"], of(insert, kind, x, b, p, n))


def test_bytes_logic_tables_and_funnels() -> None:
    rng = np.random.default_rng(8)
    a, b, c = (rng.integers(0, 2**32, 200, "u4") for _ in range(3))
    n = np.resize(np.array([0, 1, 5, 31, 32, 33, 64], "u4"), 200)

    def permuted(x: int, y: int, chosen: int) -> int:
        both = x.to_bytes(4, "little") + y.to_bytes(4, "little")
        picks = [(both[chosen >> 4 * i & 7], chosen >> 4 * i & 8) for i in range(4)]
        return int.from_bytes(bytes(255 * (v >> 7) if sign else v for v, sign in picks), "little")

    found = evaluate(
        {
            "prmt": ("prmt.b32 %d, %a, %b, %c;", "u4"),
            "lop3": ("lop3.b32 %d, %a, %b, %c, 0x96;", "u4"),
            "other": ("lop3.b32 %d, %a, %b, %c, 0xE2;", "u4"),
            "left": ("shf.l.wrap.b32 %d, %a, %b, %n;", "u4"),
            "right": ("shf.r.clamp.b32 %d, %a, %b, %n;", "u4"),
        },
        {"a": a, "b": b, "c": c, "n": n},
    )
    same(found["prmt"], of(permuted, "u4", a, b, c))
    same(found["lop3"], a ^ b ^ c)  # 0xF0 ^ 0xCC ^ 0xAA = 0x96
    same(found["other"], (b & a) | (~b & c))  # (0xCC & 0xF0) | (~0xCC & 0xAA) = 0xE2
    same(found["left"], of(lambda x, y, s: ((y << 32 | x) << (s & 31)) >> 32, "u4", a, b, n))
    same(found["right"], of(lambda x, y, s: (y << 32 | x) >> min(s, 32), "u4", a, b, n))


@pytest.mark.parametrize("kind", ["i1", "u1", *ALL])
@pytest.mark.parametrize("source", ["f4", "f8"])
def test_floats_to_integers_round_and_clamp(kind: str, source: str) -> None:
    info = np.iinfo(kind)
    edges = [float(x) for x in (info.min, info.max)]
    a = np.array(
        [0.0, -0.0, 0.5, 1.5, 2.5, -0.5, -1.5, 0.4999, 99.7, -99.7, *edges, *(e * 1.1 for e in edges), INF, -INF],
        source,
    )
    rules: dict[str, Callable[[Fraction], int]] = {"rni": round, "rzi": math.trunc, "rmi": math.floor, "rpi": math.ceil}
    name = {"i1": "s8", "u1": "u8", **PTX}[kind]
    found = evaluate(
        {r: (f"cvt.{r}.{name}.{source.replace('f4', 'f32').replace('f8', 'f64')} %d, %a;", kind) for r in rules},
        {"a": a},
    )
    for rule, function in rules.items():
        whole = [function(Fraction(float(x))) if np.isfinite(x) else (info.max if x > 0 else info.min) for x in a]
        same(found[rule], np.array([min(max(w, info.min), info.max) for w in whole], kind))


def test_nan_as_an_integer_follows_the_ptx_isa() -> None:
    nan32, nan64 = np.array([NAN], "f4"), np.array([NAN], "f8")
    found = evaluate({k: (f"cvt.rzi.{PTX[k]}.f32 %d, %a;", k) for k in FROM_32}, {"a": nan32})
    assert {k: int(v[0]) for k, v in found.items()} == {"i4": 0, "u4": 0, "i8": -(2**63), "u8": 2**63}
    found = evaluate({k: (f"cvt.rzi.{PTX[k]}.f64 %d, %a;", k) for k in FROM_32}, {"a": nan64})
    assert {k: int(v[0]) for k, v in found.items()} == {"i4": -(2**31), "u4": 2**31, "i8": -(2**63), "u8": 2**63}


@pytest.mark.parametrize("kind", FROM_32)
@pytest.mark.parametrize("result", ["f4", "f8"])
def test_integers_to_floats_are_rounded_once(kind: str, result: str) -> None:
    extra = [2**24 + 1, 2**24 + 3, *([2**53 + 1, 2**53 + 3, 2**60 + 2**36 + 1] if kind[1] == "8" else [])]
    a = np.array([*corners(kind), *extra], kind)
    modes = ("rn", "rz", "rm", "rp")
    target = "f32" if result == "f4" else "f64"
    found = evaluate({m: (f"cvt.{m}.{target}.{PTX[kind]} %d, %a;", result) for m in modes}, {"a": a})
    for mode in modes:
        same(found[mode], np.array([exact_round(Fraction(int(x)), result, mode) if x else 0.0 for x in a], result))


def test_float64_to_float32_and_back() -> None:
    a = np.array(
        [0.1, -0.1, 1 + 2.0**-24, 1 + 3 * 2.0**-24, 1e300, -1e300, 1e-40, 1e-50, -1e-50, 3.4028235677973366e38]
    )
    modes = ("rn", "rz", "rm", "rp")
    found = evaluate({m: (f"cvt.{m}.f32.f64 %d, %a;", "f4") for m in modes}, {"a": a})
    for mode in modes:
        expected = np.array(
            [np.copysign(exact_round(Fraction(x), "f4", mode), np.float32(math.copysign(1.0, x))) for x in a], "f4"
        )
        same(found[mode], expected)
    special = np.array([0.0, -0.0, INF, -INF, NAN])
    back = evaluate({"f": ("cvt.rn.f32.f64 %d, %a;", "f4")}, {"a": special})["f"]
    same(back, special.astype("f4"))
    flushed = evaluate({"f": ("cvt.rn.ftz.f32.f64 %d, %a;", "f4")}, {"a": np.array([1e-40, -1e-40, 1.0])})["f"]
    same(flushed, np.array([0.0, -0.0, 1.0], "f4"))


@pytest.mark.parametrize("kind", ["f4", "f8"])
def test_whole_floats(kind: str) -> None:
    a = np.array([0.5, 1.5, 2.5, -0.5, -2.5, -0.2, 0.0, -0.0, 1e30, INF, -INF, NAN, 4503599627370495.5], kind)
    name = "f32" if kind == "f4" else "f64"
    found = evaluate({r: (f"cvt.{r}.{name}.{name} %d, %a;", kind) for r in ("rni", "rzi", "rmi", "rpi")}, {"a": a})
    for rule, function in (("rni", np.rint), ("rzi", np.trunc), ("rmi", np.floor), ("rpi", np.ceil)):
        same(found[rule], function(a))


@pytest.mark.parametrize("kind", ALL)
def test_integers_narrowed_widened_clamped(kind: str) -> None:
    a = np.array(corners(kind), kind)
    found = evaluate({k: (f"cvt.{PTX[k]}.{PTX[kind]} %d, %a;", k) for k in ALL}, {"a": a})
    clamped = evaluate({k: (f"cvt.sat.{PTX[k]}.{PTX[kind]} %d, %a;", k) for k in ALL}, {"a": a})
    for other in ALL:
        info = np.iinfo(other)
        same(found[other], of(lambda x: x, other, a))
        same(clamped[other], np.array([min(max(int(x), info.min), info.max) for x in a], other))


def test_saturated_sum_of_int32() -> None:
    a, b = grid(corners("i4"), "i4")
    found = evaluate(
        {"add": ("add.sat.s32 %d, %a, %b;", "i4"), "sub": ("sub.sat.s32 %d, %a, %b;", "i4")}, {"a": a, "b": b}
    )
    for name, sign in (("add", 1), ("sub", -1)):
        values = [min(max(int(x) + sign * int(y), -(2**31)), 2**31 - 1) for x, y in zip(a, b, strict=True)]
        same(found[name], np.array(values, "i4"))


def test_predicates_and_parts_of_registers() -> None:
    a, b = (np.array(v, bool) for v in ([0, 0, 1, 1], [0, 1, 0, 1]))
    w = np.array([0x0123456789ABCDEF] * 4, "u8")
    quarters = "{ .reg .b16 %h<4>; mov.b64 {%h0, %h1, %h2, %h3}, %w; mov.b64 %d, {%h3, %h2, %h1, %h0}; }"
    found = evaluate(
        {
            **{n: (f"{n}.pred %d, %a, %b;", "b1") for n in ("and", "or", "xor")},
            "not": ("not.pred %d, %a;", "b1"),
            "true": ("mov.pred %d, -1;", "b1"),
            "guarded": ("mov.u32 %d, 5; @!%a mov.u32 %d, 6; @%b add.s32 %d, %d, 10;", "u4"),
            "quarters": (quarters, "u8"),
        },
        {"a": a, "b": b, "w": w},
    )
    same(found["and"], a & b)
    same(found["or"], a | b)
    same(found["xor"], a ^ b)
    same(found["not"], ~a)
    same(found["true"], np.ones(4, bool))
    assert found["guarded"].tolist() == [6, 16, 5, 15]
    assert set(found["quarters"].tolist()) == {0xCDEF89AB45670123}
