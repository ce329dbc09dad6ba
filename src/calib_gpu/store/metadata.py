"""Zarr metadata documents, v3 and v2, read into one description."""

from __future__ import annotations

import base64
import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import numpy as np

from calib_gpu.errors import Unreadable
from calib_gpu.store import guard, reads, strict_json, system
from calib_gpu.store.guard import DEFAULT_LIMITS, Limits, dims

NODES: Final = ("zarr.json", ".zarray")
"""Documents of an array, v3 and v2."""
GROUP_NODES: Final = ("zarr.json", ".zgroup")
"""Documents of a group, v3 and v2."""

NUMERIC: Final = {
    "bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "float16", "float32", "float64",
}  # fmt: skip
FIXED_STRINGS: Final = {"fixed_length_utf32": ("U", 4), "null_terminated_bytes": ("S", 1)}
"""Types of strings of fixed length: NumPy kind, and bytes a character."""


@dataclass(frozen=True)
class Layout:
    """How the chunks of an array lie on disk, as far as this package decodes them itself.

    ``chunk`` is what one file holds, ``inner`` what one decode gives (the same without sharding);
    ``chain`` are the byte codecs in the order of encoding, ``order`` the axis permutation of a transpose codec;
    ``checked`` tells that one of them sees damaged bytes.
    """

    chunk: tuple[int, ...]
    inner: tuple[int, ...]
    chain: tuple[str, ...]
    stored_dtype: np.dtype[Any]
    order: tuple[int, ...]
    sharded: bool = False
    index_at_end: bool = True
    index_crc: bool = True
    key_prefix: str = "c"
    separator: str = "/"
    checked: bool = False

    def key(self, coords: tuple[int, ...]) -> str:
        """File name of a chunk below the array's folder."""
        parts = [str(c) for c in coords]
        if self.key_prefix:
            parts.insert(0, self.key_prefix)
        return self.separator.join(parts) if parts else "0"

    def key_around(self, coords: tuple[int, ...], axis: int) -> tuple[str, str]:
        """What stands before and behind the number of one axis in the file names of a row of chunks."""
        before, behind = (str(c) for c in coords[:axis]), (str(c) for c in coords[axis + 1 :])
        head = [self.key_prefix] if self.key_prefix else []
        return self.separator.join([*head, *before, ""]), self.separator.join(["", *behind])


@dataclass(frozen=True)
class ArrayMeta:
    """Metadata of one array; where it cannot be read ``layout`` is None and ``problem`` says why."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any] | None
    is_string: bool
    fill_value: Any
    dims: tuple[str | None, ...] | None
    attrs: Mapping[str, Any]
    layout: Layout | None
    problem: str = ""


def read_json(path: Path | str, raw: bytes | None = None) -> dict[str, Any]:
    """A JSON document as an object, from its bytes where these are at hand; :class:`Unreadable` names the file."""
    if raw is None:
        raw = _document_bytes(path)
    try:
        return strict_json.parse_json(raw)
    except ValueError as error:
        raise Unreadable(str(error), array=str(path), fix="the store is damaged; copy it again") from None


def _document_bytes(path: Path | str) -> bytes:
    with reads.noted(path):
        return _read(path)


def _read(path: Path | str) -> bytes:
    try:
        handle, size = guard.open_file(path, str(path))
    except FileNotFoundError as error:
        raise Unreadable(f"cannot be read: {error.strerror}", array=str(path)) from None
    try:
        if size > guard.MAX_DOCUMENT_BYTES:
            rule = f"<= {guard.MAX_DOCUMENT_BYTES} bytes"
            raise Unreadable("metadata document too large", array=str(path), value=f"{size} bytes", rule=rule)
        raw = b""
        while len(raw) < size and (block := system.read(handle, size - len(raw))):
            raw += block
        return raw
    except OSError as error:
        if isinstance(error, Unreadable):
            raise
        raise reads.failure(error, "cannot be read", array=str(path)) from None
    finally:
        system.close(handle)


def has_array(path: Path) -> bool:
    """True if there is a document that should be an array's, without reading it."""
    return any(guard.is_there(f"{path}/{name}") for name in NODES)


def node_kind(path: Path) -> str:
    """``array``, ``group`` or an empty string for what is not a Zarr node."""
    if guard.is_there(path / "zarr.json"):
        return str(read_json(path / "zarr.json").get("node_type", ""))
    if guard.is_there(path / ".zarray"):
        return "array"
    return "group" if guard.is_there(path / ".zgroup") else ""


def group_attrs(
    path: Path, held: Mapping[str, bytes] = MappingProxyType({}), limits: Limits = DEFAULT_LIMITS
) -> dict[str, Any]:
    """Attributes of a group, v3 or v2; ``held`` are its files that were read before."""
    document, version_3 = path / "zarr.json", True
    if "zarr.json" not in held and not guard.is_there(document):
        document, version_3 = path / ".zattrs", False
        if document.name not in held and not guard.is_there(document):
            return {}
    raw = held[document.name] if document.name in held else _document_bytes(document)
    found = read_json(document, raw)
    if version_3:
        _check_format(found, 3, "group", document)
    attrs = (found.get("attributes") or {}) if version_3 else found
    if not isinstance(attrs, dict):
        raise Unreadable("attributes are not a JSON object", array=str(document))
    try:
        guard.check_attributes(attrs, len(raw), limits)
    except ValueError as error:
        raise Unreadable(str(error), array=str(document)) from None
    return attrs


def _check_format(document: dict[str, Any], version: int, node: str, path: Path | str) -> None:
    if document.get("zarr_format") != version or (version == 3 and document.get("node_type") != node):
        found = f"zarr_format {document.get('zarr_format')!r}, node_type {document.get('node_type')!r}"
        raise Unreadable(
            f"not the document of {'an' if node == 'array' else 'a'} {node}: {guard.shown(found)}", array=str(path),
            rule=f"zarr_format {version}: {node} is expected",
        )  # fmt: skip


def array_meta(
    path: Path | str, held: Mapping[str, bytes] = MappingProxyType({}), limits: Limits = DEFAULT_LIMITS
) -> ArrayMeta:
    """Metadata of the array in folder ``path``; ``held`` are its files that were read before."""
    version_3 = "zarr.json" in held or guard.is_there(f"{path}/zarr.json")
    node = "zarr.json" if version_3 else ".zarray"
    document = f"{path}/{node}"
    raw = held[node] if node in held else _document_bytes(document)
    try:
        if version_3:
            meta = _known.get(raw) or _remembered(raw, document)
            guard.check_attributes(dict(meta.attrs), len(raw), limits)
        else:
            found = read_json(document, raw)
            _check_format(found, 2, "array", document)
            meta = _parse_v2(found, group_attrs(Path(path), held, limits))
        if meta.layout is not None:
            _check_chunks(meta.layout, limits.max_chunk_bytes)
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError, struct.error) as error:
        raise Unreadable(f"metadata not understood: {_said(error)}", array=str(document)) from None
    return meta


_known: Final[dict[bytes, ArrayMeta]] = {}
"""Documents of v3 that were read before: those of the small arrays are the same in every scan of a night."""
_MOST_KNOWN, _MOST_KNOWN_BYTES = 256, 1 << 14


def _remembered(raw: bytes, document: str) -> ArrayMeta:
    found = read_json(document, raw)
    _check_format(found, 3, "array", document)
    meta = _parse_v3(found)
    if len(raw) <= _MOST_KNOWN_BYTES:
        if len(_known) >= _MOST_KNOWN:
            _known.clear()
        _known[raw] = meta
    return meta


def _check_chunks(layout: Layout, most: int) -> None:
    """What one decode gives, and the index of a shard, must not be larger than a chunk may be."""
    if layout.stored_dtype.kind != "O":  # strings have a bound of their own
        guard.check_size("chunk", layout.inner, layout.stored_dtype.itemsize, most, "max_chunk_bytes")
    if layout.sharded:
        per_shard = [c // i for c, i in zip(layout.chunk, layout.inner, strict=True)]
        guard.check_size("shard index", per_shard, 16, most, "max_chunk_bytes")


def _said(error: Exception) -> str:
    return str(error) if type(error) is ValueError else guard.shown(repr(error))


def _chunk_of(chunk: Any, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Chunk shape; 0 is accepted on axes of length 0, where some writers put it."""
    found = dims(chunk)
    if len(found) != len(shape) or any(c == 0 and n > 0 for c, n in zip(found, shape, strict=True)):
        raise ValueError(f"chunk shape {found} for shape {shape}")
    return tuple(max(c, 1) for c in found)


def _names(names: Any, shape: tuple[int, ...]) -> tuple[str | None, ...] | None:
    if not names:
        return None
    if len(names) != len(shape) or not all(d is None or isinstance(d, str) for d in names):
        raise ValueError(f"dimension names {guard.shown(str(names))} for shape {shape}")
    return tuple(names)


def _separator(value: Any) -> str:
    if value not in (".", "/"):
        raise ValueError(f"separator {value!r} of chunk names")
    return str(value)


def _parse_v3(doc: dict[str, Any]) -> ArrayMeta:
    shape, stored = dims(doc["shape"]), _type_v3(doc["data_type"])
    numeric = stored is not None and stored.name in NUMERIC
    dtype = stored if numeric else None
    layout, problem = None, f"type {guard.shown(str(doc['data_type']))} is not read"
    if stored is not None:
        layout, problem = _layout_v3(doc, shape, stored)
    return ArrayMeta(
        shape, dtype, stored is not None and not numeric, _fill(doc.get("fill_value"), dtype),
        _names(doc.get("dimension_names"), shape), MappingProxyType(dict(doc.get("attributes") or {})), layout, problem,
    )  # fmt: skip


def _type_v3(name: Any) -> np.dtype[Any] | None:
    """NumPy type of a v3 type: numbers, strings (object, or of fixed length); None for what is not read."""
    if isinstance(name, str):
        return np.dtype(name) if name in NUMERIC else np.dtype(object) if name == "string" else None
    size = name["configuration"]["length_bytes"] if name["name"] in FIXED_STRINGS else 0
    if type(size) is not int or not 0 < size <= guard.MAX_STRING_BYTES:
        return None
    kind, width = FIXED_STRINGS[name["name"]]
    return np.dtype(f"{kind}{size // width}")


def _fill(value: Any, dtype: np.dtype[Any] | None) -> Any:
    if dtype is None or value is None:
        return value
    if not isinstance(value, int | float | str):
        raise ValueError(f"fill value {value!r}")
    if isinstance(value, str) and dtype.kind == "f":
        named = {"NaN": np.nan, "Infinity": np.inf, "-Infinity": -np.inf}
        if value in named:
            return named[value]
        return struct.unpack({2: ">e", 4: ">f", 8: ">d"}[dtype.itemsize], bytes.fromhex(value[2:]))[0]
    if isinstance(value, str) or (dtype.kind in "iu" and value != int(value)):
        raise ValueError(f"fill value {guard.shown(repr(value))} for {dtype}")
    return dtype.type(value)


def _layout_v3(doc: dict[str, Any], shape: tuple[int, ...], stored: np.dtype[Any]) -> tuple[Layout | None, str]:
    """The layout, or None and why chunks stored like this are not read."""
    encoding = doc.get("chunk_key_encoding", {"name": "default"})
    options = encoding.get("configuration") or {}
    grid, chain_doc = doc["chunk_grid"], doc["codecs"]
    if grid["name"] != "regular" or encoding["name"] not in ("default", "v2") or doc.get("storage_transformers"):
        return None, "a chunk grid, key encoding or storage transformer that is not read"
    chunk = _chunk_of(grid["configuration"]["chunk_shape"], shape)
    prefix, separator = ("c", "/") if encoding["name"] == "default" else ("", ".")
    problem = guard.chain_problem([step["name"] for step in chain_doc])
    inner, sharded, index_end, index_crc = chunk, False, True, True
    if not problem and chain_doc[0]["name"] == "sharding_indexed":
        shard = chain_doc[0]["configuration"]
        inner, chain_doc, sharded = dims(shard["chunk_shape"]), shard["codecs"], True
        problem = guard.chain_problem([step["name"] for step in chain_doc], in_shard=True)
        index = [c["name"] for c in shard["index_codecs"]]
        plain = index in (["bytes"], ["bytes", "crc32c"])
        if not plain or shard["index_codecs"][0]["configuration"].get("endian") != "little":
            problem = problem or "a shard index of other codecs than little-endian bytes and crc32c"
        index_crc, index_end = index[-1] == "crc32c", shard.get("index_location", "end") == "end"
        if len(inner) != len(chunk) or 0 in inner or any(c % i for c, i in zip(chunk, inner, strict=True)):
            raise ValueError(f"inner chunks {inner} do not divide the shard {chunk}")
    if problem:
        return None, problem
    order, chain, checked = tuple(range(len(shape))), [], False
    for step in chain_doc:
        name, config = step["name"], step.get("configuration") or {}
        if name == "transpose":
            order = tuple(config["order"])
        elif name == "bytes" and stored.kind != "O":
            stored = stored.newbyteorder(">" if config.get("endian") == "big" else "<")
        elif name in guard.SERIALIZERS:
            if (name == "vlen-utf8") is not (stored.kind == "O"):
                return None, f"codec {name} for another type"
        else:
            chain.append(str(name))
            checked |= _checks(name, config)
    if sorted(order) != list(range(len(shape))):
        raise ValueError(f"transpose {order}")
    separator = _separator(options.get("separator", separator))
    layout = Layout(
        chunk, inner, tuple(chain), stored, order, sharded, index_end, index_crc, prefix, separator, checked
    )
    return layout, ""


def _checks(name: str, config: Mapping[str, Any]) -> bool:
    """Whether a codec sees damaged bytes; zstd does where its writer asked for a checksum."""
    return name in ("crc32c", "gzip", "zlib") or (name == "zstd" and config.get("checksum") is True)


def _parse_v2(doc: dict[str, Any], attrs: dict[str, Any]) -> ArrayMeta:
    shape = dims(doc["shape"])
    chunk = _chunk_of(doc["chunks"], shape)
    simple = isinstance(doc["dtype"], str) and re.fullmatch(r"[<>|=]?[A-Za-z][0-9]{0,5}", doc["dtype"])
    stored = np.dtype(doc["dtype"]) if simple else None
    numeric = stored is not None and stored.newbyteorder("=").name in NUMERIC
    dtype = stored.newbyteorder("=") if stored is not None and numeric else None
    is_string = stored is not None and stored.kind in "OUS"
    fill = doc.get("fill_value")
    if stored is not None and stored.kind == "S" and isinstance(fill, str):
        fill = base64.b64decode(fill)
    layout, problem = None, f"type {guard.shown(str(doc['dtype']))} is not read"
    if stored is not None and (numeric or is_string):
        layout, problem = _layout_v2(doc, chunk, stored)
    names = _names(attrs.get("_ARRAY_DIMENSIONS"), shape)
    return ArrayMeta(shape, dtype, is_string, _fill(fill, dtype), names, attrs, layout, problem)


def _layout_v2(doc: dict[str, Any], chunk: tuple[int, ...], stored: np.dtype[Any]) -> tuple[Layout | None, str]:
    compressor, filters = doc.get("compressor") or {}, [step["id"] for step in doc.get("filters") or []]
    chain = (str(compressor["id"]),) if compressor else ()
    if filters != (["vlen-utf8"] if stored.kind == "O" else []):
        return None, f"filters {guard.shown(str(filters))} are not read"
    if problem := guard.chain_problem(["bytes", *chain]):
        return None, problem
    axes = tuple(range(len(chunk)))
    order = axes if doc.get("order", "C") == "C" else axes[::-1]
    separator = _separator(doc.get("dimension_separator", "."))
    checked = any(_checks(name, compressor) for name in chain)
    return Layout(chunk, chunk, chain, stored, order, key_prefix="", separator=separator, checked=checked), ""
