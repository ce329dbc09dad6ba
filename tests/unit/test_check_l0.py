"""``calib-gpu check`` on L0: what would make a scan fail is told before a night is spent on it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from calib_gpu import Settings
from calib_gpu.cli import main
from calib_gpu.errors import StoreUnusable
from calib_gpu.inspection.check_l0 import Findings, check_l0
from calib_gpu.store.chunks import ChunkedArray
from calib_gpu.testing.damage import DAMAGES, chunk_files, flip_bit
from calib_gpu.testing.hostile import CATALOGUE
from calib_gpu.testing.tamper import BAD, BYTES, GOOD, ZSTD, inside, one_chunk, sound_store

SETTINGS = Settings(workers=1)
COUNTS = inside("source", "data_5d")


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("template") / "l0.zarr"
    sound_store(path)
    return path


@pytest.fixture
def store(template: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(template, tmp_path / "l0.zarr"))


def test_nothing_is_wrong_with_a_sound_store(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for decode in (True, False):
        assert check_l0(store, SETTINGS, decode=decode) == Findings(scans=2)
    with pytest.raises(SystemExit) as left:
        main(["check", str(store)])
    assert left.value.code == 0
    assert "2 scan(s) checked, every chunk of counts decoded: 0 problem(s), 0 doubt(s)" in capsys.readouterr().out


@pytest.mark.parametrize("group", ["source", "calibration"])
@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_counts(store: Path, damage: str, group: str) -> None:
    file = chunk_files(inside(group, "data_5d")(store))[0]
    DAMAGES[damage](file)
    found = check_l0(store, SETTINGS)
    assert found.problems, "not seen"
    for word in (f"scan_{BAD:06d}", f"{group}/data_5d", file.name):
        assert word in found.problems[0]
    assert not any(f"scan_{GOOD:06d}" in problem for problem in found.problems)
    quick = check_l0(store, SETTINGS, decode=False)
    assert bool(quick.problems) is (damage != "bit flip"), "of turned bits the index and the sizes say nothing"


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_files_without_shards(store: Path, damage: str) -> None:
    """Without an index only the header tells the size, so that the quick check sees less."""
    values = np.ascontiguousarray(ChunkedArray(COUNTS(store), "counts", absent_is_fill=False).values())
    from calib_gpu.store.codecs import Compressor

    one_chunk(COUNTS, [BYTES, ZSTD], lambda: Compressor("zstd", 1).encode(values))(store)
    assert check_l0(store, SETTINGS, decode=False).problems == []
    DAMAGES[damage](inside("source", "data_5d", "c.0.0.0.0.0")(store))
    assert "c.0.0.0.0.0" in check_l0(store, SETTINGS).problems[0]
    quick = check_l0(store, SETTINGS, decode=False).problems
    assert bool(quick) is (damage in ("missing", "empty", "cut at 1 byte"))


@pytest.mark.parametrize("damage", [d for d in DAMAGES if d != "missing"])
def test_damaged_small_arrays(store: Path, damage: str) -> None:
    DAMAGES[damage](inside("source", "elevation", "c.0")(store))
    assert "source/elevation" in check_l0(store, SETTINGS, decode=False).problems[0]


@pytest.mark.parametrize("decode", [True, False])
def test_a_missing_shard_is_one_line(store: Path, decode: bool) -> None:
    """It holds a chunk a subscan; the file is named, not each of them."""
    (shard,) = chunk_files(COUNTS(store))
    shard.unlink()
    (problem,) = check_l0(store, SETTINGS, decode=decode).problems
    assert problem.startswith(f"scan_{BAD:06d}: source/data_5d: chunk is missing (value: {shard.name})")


def test_every_damaged_file_is_named(store: Path) -> None:
    for group in ("source", "calibration"):
        flip_bit(chunk_files(inside(group, "data_5d")(store))[0], 333)
    problems = check_l0(store, SETTINGS).problems
    assert any("source/data_5d" in p for p in problems)
    assert any("calibration/data_5d" in p for p in problems)


@pytest.mark.parametrize("kind", CATALOGUE)
def test_hostile_stores(store: Path, kind: str) -> None:
    hostile = CATALOGUE[kind]
    try:
        hostile.apply(store)
    except PermissionError:
        pytest.skip("only root can make a device")
    settings = Settings(workers=1, **hostile.options)
    if hostile.outcome == "unusable":
        with pytest.raises(StoreUnusable) as caught:
            check_l0(store, settings)
        said = [str(caught.value)]
    else:
        said = check_l0(store, settings).problems
    assert any(all(word in text for word in hostile.words) for text in said), said


def without_source_array(name: str) -> Callable[[Path], Any]:
    return lambda store: shutil.rmtree(inside("source", name)(store))


def no_loads(store: Path) -> None:
    for scan in store.glob("scan_*"):
        shutil.rmtree(scan / "calibration")


def no_off(store: Path) -> None:
    from calib_gpu.store.codecs import Compressor
    from calib_gpu.store.small import write_array

    folder = inside("source", "sobsmode")(store)
    shutil.rmtree(folder)
    write_array(folder, np.array(["OTF-ON"] * 5, dtype=object), ("S",), {}, Compressor())


INCONSISTENT: dict[str, tuple[Callable[[Path], Any], tuple[str, ...]]] = {
    "an array is missing": (without_source_array("mjd"), ("source/mjd", "missing")),
    "no elevation": (without_source_array("elevation"), ()),
    "no loads anywhere": (no_loads, ("no load measurement serves this scan",)),
    "no OFF": (no_off, ("no OFF subscan",)),
    "a group document is missing": (lambda store: inside("source", "zarr.json")(store).unlink(), ("document of the group",)),
    "a scan document is missing": (lambda store: inside("zarr.json")(store).unlink(), ("document of the group",)),
    "an array document is missing": (
        lambda store: inside("source", "gain_sig", "zarr.json")(store).unlink(), ("source/gain_sig", "document of the array"),
    ),
    "a chunk too many": (
        lambda store: shutil.copy(inside("source", "data_5d", "c.0.0.0.0.0")(store), COUNTS(store) / "c.1.0.0.0.0"),
        ("no chunk of this array", "c.1.0.0.0.0"),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", INCONSISTENT)
def test_what_does_not_fit_together(store: Path, name: str) -> None:
    change, words = INCONSISTENT[name]
    change(store)
    problems = check_l0(store, SETTINGS, decode=False).problems
    if not words:
        assert problems == []  # allowed: --atmosphere none needs no elevation
        return
    assert any(all(word in text for word in (f"scan_{BAD:06d}", *words)) for text in problems), problems


def test_doubts_are_no_problems(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (store / "notes.txt").write_text("x")
    shutil.copytree(store / f"scan_{GOOD:06d}", store / "scan_030000")
    document = store / "scan_030000" / "zarr.json"
    data = json.loads(document.read_bytes())
    data["attributes"]["scan_number"] = 30000
    document.write_text(json.dumps(data))
    for group in ("source", "calibration"):
        shutil.rmtree(store / "scan_030000" / group)
    inside("source", "tamb", "c.0")(store).unlink()
    values = np.ascontiguousarray(ChunkedArray(COUNTS(store), "counts", absent_is_fill=False).values())
    one_chunk(COUNTS, [BYTES], values.tobytes)(store)
    found = check_l0(store, SETTINGS)
    told = "\n".join(found.doubts)
    for words in ("notes.txt: not read", "scan_030000: neither source nor calibration", "no checksum in source/data_5d",
                  "absent and taken as the fill value in source/tamb"):  # fmt: skip
        assert words in told
    assert found.problems == []
    assert any("no checksum" in p for p in check_l0(store, Settings(workers=1, require_checksum=True)).problems)
    for more, code in (([], 0), (["--quick"], 0), (["--require-checksum"], 1), (["--set", "require_checksum=true"], 1)):
        with pytest.raises(SystemExit) as left:
            main(["check", str(store), *more])
        assert left.value.code == code
    assert "doubt: notes.txt: not read" in capsys.readouterr().out
