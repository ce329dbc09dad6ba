"""The types of PTX: width, kind, and the C type that holds a value.

Registers are kept as unsigned integers of their width; a float is the bit pattern in such an integer.
"""

from __future__ import annotations

_C_SIGNED = {8: "int8_t", 16: "int16_t", 32: "int32_t", 64: "int64_t"}
_C_UNSIGNED = {8: "uint8_t", 16: "uint16_t", 32: "uint32_t", 64: "uint64_t"}

FLOATS = frozenset({"f32", "f64"})
SIGNED = frozenset({"s8", "s16", "s32", "s64"})
UNSIGNED = frozenset({"u8", "u16", "u32", "u64"})
UNTYPED = frozenset({"b8", "b16", "b32", "b64"})
INTEGERS = SIGNED | UNSIGNED
TYPES = INTEGERS | UNTYPED | FLOATS | {"pred"}

INTEGERS_16_UP = INTEGERS - {"s8", "u8"}
INTEGERS_32_UP = frozenset({"s32", "u32", "s64", "u64"})


def bits(kind: str) -> int:
    """Width of a type in bits; a predicate is a byte."""
    return 8 if kind == "pred" else int(kind[1:])


def size(kind: str) -> int:
    """Width of a type in bytes."""
    return bits(kind) // 8


def raw(kind: str) -> str:
    """The C type of the bits of a value."""
    return _C_UNSIGNED[bits(kind)]


def c_type(kind: str) -> str:
    """The C type of a value."""
    if kind in FLOATS:
        return "double" if kind == "f64" else "float"
    return _C_SIGNED[bits(kind)] if kind in SIGNED else raw(kind)


def wider(kind: str) -> str:
    """The integer type of twice the width."""
    return kind[0] + str(2 * bits(kind))
