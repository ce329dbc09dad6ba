"""The guard by itself: what stands behind the checks of folders, and bounds that whole stores cannot show."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import numpy as np
import pytest

from calib_gpu import Settings
from calib_gpu.errors import ReadFailed, Unreadable
from calib_gpu.store import guard
from calib_gpu.store.guard import CodecError, Limits
from calib_gpu.store.metadata import array_meta, group_attrs
from calib_gpu.store.strict_json import MAX_VALUES, parse_json
from calib_gpu.testing.faulty_disk import FaultyDisk, fail


def test_links_are_not_followed_even_where_no_folder_was_looked_through(tmp_path: Path) -> None:
    (tmp_path / "real").write_text('{"zarr_format": 3, "node_type": "group"}')
    (tmp_path / "zarr.json").symlink_to("real")
    with pytest.raises(Unreadable, match="symbolic link"):
        guard.open_file(tmp_path / "zarr.json", "label")
    with pytest.raises(Unreadable, match="symbolic link"):
        group_attrs(tmp_path)
    handle, size = guard.open_file(tmp_path / "real", "label")
    os.close(handle)
    assert size == 40


def test_a_file_that_opens_but_tells_no_size_is_an_error_of_the_disk(tmp_path: Path) -> None:
    (tmp_path / "c.0").write_bytes(b"1")
    before = os.listdir("/proc/self/fd")
    with FaultyDisk(tmp_path, fail(errno.EIO), calls=("fstat",)), pytest.raises(ReadFailed, match="Input/output error"):
        guard.open_file(tmp_path / "c.0", "label")
    assert os.listdir("/proc/self/fd") == before  # the file is closed


def array_document(**attributes: str) -> bytes:
    codecs = [{"name": "bytes", "configuration": {"endian": "little"}}]
    grid = {"name": "regular", "configuration": {"chunk_shape": [2]}}
    document = {
        "zarr_format": 3, "node_type": "array", "shape": [2], "data_type": "int32", "chunk_grid": grid, "fill_value": 0,
        "codecs": codecs, "attributes": attributes, "chunk_key_encoding": {"name": "default"},
    }  # fmt: skip
    return json.dumps(document, indent=8).encode()


def test_attributes_of_an_array_have_a_limit_and_its_document_has_none(tmp_path: Path) -> None:
    """Also where the document is known already, from a reading with another limit."""
    few, many = (array_document(note=letter * n) for letter, n in (("a", 10), ("b", 200)))
    assert len(few) > 150
    for raw in (few, many):
        assert array_meta(tmp_path, {"zarr.json": raw}).shape == (2,)
    tight = Limits(max_attribute_bytes=150)
    assert array_meta(tmp_path, {"zarr.json": few}, tight).attrs == {"note": "a" * 10}
    with pytest.raises(Unreadable, match="max_attribute_bytes"):
        array_meta(tmp_path, {"zarr.json": many}, tight)
    with pytest.raises(Unreadable, match="max_chunk_bytes"):
        array_meta(tmp_path, {"zarr.json": few}, Limits(max_chunk_bytes=4))


def test_limits_are_the_settings() -> None:
    assert Limits.of(Settings()) == guard.DEFAULT_LIMITS
    assert Limits.of(Settings(max_scans=7, require_checksum=True)) == Limits(max_scans=7, require_checksum=True)


@pytest.mark.parametrize(
    ("name", "plain"),
    [("zarr.json", True), (".zattrs", True), ("c.0.0", True), ("data_5d", True), ("zarr.json~", True), ("-rf", False),
     ("", False), ("a b", False), ("a\n", False), ("n" * 200, True), ("n" * 201, False), ("\u0430", False), ("a/b", False)],
)  # fmt: skip
def test_names(name: str, plain: bool) -> None:
    assert guard.is_plain(name) is plain


@pytest.mark.parametrize(
    ("name", "number", "alike"),
    [("scan_025650", 25650, True), ("scan_000001", 1, True), ("scan_1234567", 1234567, True), ("scan_0025650", None, True),
     ("scan_25650", None, True), ("SCAN_025650", None, True), ("scan_025650\n", None, True), ("sc\u0430n_025650", None, True),
     ("scan_02565\uff10", None, True), ("scan_notes", None, False), ("band_LFA", None, False), ("README", None, False)],
)  # fmt: skip
def test_names_of_scans(name: str, number: int | None, alike: bool) -> None:
    assert guard.scan_number(name) == number
    assert guard.looks_like_scan(name) is alike


def test_files_may_not_be_larger_than_their_content_can_take() -> None:
    for n in (0, 1, 1000, 1 << 20):
        assert n < guard.encoded_limit(n) <= 2 * n + (1 << 16)


def test_what_is_shown_has_no_control_characters() -> None:
    assert guard.shown("a\nb\x1b[31m") == "a\\nb\\x1b[31m"
    assert len(guard.shown("x" * 10_000)) < 100


@pytest.mark.parametrize("text", ["1e999", "NaN", "[Infinity]", '{"b": -Infinity}'])
def test_numbers_that_are_none_are_named(text: str) -> None:
    with pytest.raises(ValueError, match=r"^here"):
        parse_json(b'{"here": ' + text.encode() + b"}")


def test_numbers_that_are_some() -> None:
    assert parse_json(b'{"a": [1, -2.5e-300, 1e308, "NaN", null, "\\u00e9\\ud83d\\ude00"]}')["a"][1] == -2.5e-300


def test_a_document_of_too_many_values_is_refused_before_it_is_parsed() -> None:
    """As many as are allowed are read, with the place of what is wrong among them; one more is not."""
    most = b'{"a": [' + b"[]," * ((MAX_VALUES - 3) // 2) + b"1]}"
    assert len(parse_json(most)["a"]) == (MAX_VALUES - 3) // 2 + 1
    with pytest.raises(ValueError, match="more than 500000 values"):
        parse_json(most.replace(b"1]", b"1,1,1,1]"))
    with pytest.raises(ValueError, match=r"a\.1\.b: inf is not a number"):
        parse_json(b'{"a": [' + b"[]," + b'{"b": 1e999}' + b",[]" * 40 + b"]}")


def test_an_index_without_chunks_is_sound() -> None:
    guard.check_index(np.full((2, 2, 2), guard.ABSENT, np.uint64), 0, 0)
    with pytest.raises(CodecError):
        guard.check_index(np.array([[guard.ABSENT, 5]], np.uint64), 0, 100)
