"""Tiles that go to the device compressed: the bytes of the NumPy backend under every schedule, whatever is wrong with them."""

from __future__ import annotations

import ast
import copy
import inspect
import itertools
import types
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import zstandard

from calib_gpu import packed, stream
from calib_gpu.backend.decoder import table_layout
from calib_gpu.errors import OutOfDeviceMemory, Unreadable
from calib_gpu.packed import PackedReader
from calib_gpu.store.codecs import Compressor, with_crc32c
from calib_gpu.store.shards import ShardWriter
from calib_gpu.testing.schedule import Schedule, schedules, stragglers
from calib_gpu.testing.sim import EAGER, Faults, SimDevice
from calib_gpu.testing.sim_decoder import CANNOT_DECOMPRESS, SimDecoder
from calib_gpu.workers import Workers
from packed_tiles import A, C, D, R, S, cases, counts, open_counts, run_packed, write_counts

STREAMS = ("upload", "compute", "download", "decode")
N_PIXEL = R * A * S


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_counts(tmp_path_factory.mktemp("packed"))


@pytest.fixture
def damaged(tmp_path: Path) -> Path:
    """A copy of its own, to be changed."""
    return write_counts(tmp_path)


@pytest.mark.parametrize("kvikio", [False, True])
@pytest.mark.parametrize("schedule", schedules(STREAMS, 30), ids=str)
def test_every_schedule_gives_the_bytes_of_the_numpy_backend(path: Path, schedule: Schedule, kvikio: bool) -> None:
    seed = sum(map(ord, str(schedule)))
    got = run_packed(path, schedule, slots=1 + seed % 4, n_lane=1 + seed % 3, kvikio=kvikio)
    n = (1 + seed % 3) * R * A
    assert (got.wrong, got.notes, got.decoded, got.read) == ([], [], n, n if kvikio else 0)


@pytest.mark.parametrize("kvikio", [False, True])
def test_several_frames_a_pixel(tmp_path: Path, kvikio: bool) -> None:
    got = run_packed(write_counts(tmp_path, C // 3), EAGER, kvikio=kvikio)
    assert (got.wrong, got.notes, got.decoded) == ([], [], 3 * N_PIXEL)


# --- what may be wrong: the host decodes, and the result is the same


@pytest.mark.parametrize("kvikio", [False, True])
@pytest.mark.parametrize("schedule", [EAGER, *stragglers(STREAMS), Schedule("random", 4)], ids=str)
def test_a_frame_that_the_decoder_gives_up_on_is_decoded_by_the_host(
    path: Path, schedule: Schedule, kvikio: bool
) -> None:
    got = run_packed(
        path, schedule, kvikio=kvikio, answer=lambda k, status: CANNOT_DECOMPRESS if k % 3 == 0 else status
    )
    assert got.wrong == []
    assert got.notes
    assert all("decoded on the host: the decoder gives up on a frame (status 12" in note for note in got.notes)


@pytest.mark.parametrize("schedule", [EAGER, Schedule("lazy"), Schedule("swarm", 2)], ids=str)
def test_bytes_that_kvikio_got_wrong_are_never_decoded_on_the_device(path: Path, schedule: Schedule) -> None:
    def spoil(data: bytes) -> bytes:
        return data[:-1] + bytes([data[-1] ^ 1])

    got = run_packed(path, schedule, kvikio=True, spoil=spoil)
    assert (got.wrong, got.decoded) == ([], 0)
    assert got.notes == ["gpu_reader: 9 tiles decoded on the host: crc32c does not match what was read to the device"]


def test_frames_that_do_not_fit_the_place_of_the_counts_are_decoded_by_the_host(path: Path) -> None:
    layout = cases()[0][0].layout
    array, source = open_counts(path)
    chunk = next(source.chunks(cases()[0][0].tile))
    source.frame = lambda chunk: memoryview(bytes(layout.input.nbytes))  # type: ignore[method-assign]
    device = SimDevice()
    reader = PackedReader(device, SimDecoder(device), None, source)
    tiles = stream.DeviceTiles(device, Workers(1))
    tiles.allocate(layout, 1, reader)
    job = tiles.job(layout, wait=False)
    assert job is not None
    job.read(type("G", (), {"counts": array, "shape": array.shape})(), cases()[0][0].tile)
    assert reader.notes() == [
        "gpu_reader: 1 tiles decoded on the host: the frames are hardly smaller than the counts"
    ], chunk


@pytest.mark.parametrize("kvikio", [False, True])
def test_frames_that_the_host_can_decode_but_not_vouch_for(damaged: Path, kvikio: bool) -> None:
    """Whole and with the right crc32c, but they do not say how much they hold: one tile of each subscan is declined."""
    file = sorted(damaged.glob("c.*"))[0]
    file.unlink()
    shard = ShardWriter(file, (1, 1, 1, 1, S), Compressor("zstd_crc32c", 1))
    for s in range(S):
        compressor = zstandard.ZstdCompressor(level=1).compressobj()
        data = compressor.compress(np.ascontiguousarray(counts()[:, :, 0, 0, s]).tobytes()) + compressor.flush()
        shard.append_encoded([(0, 0, 0, 0, s)], [with_crc32c(data)])
    shard.close()
    got = run_packed(damaged, EAGER, kvikio=kvikio)
    assert (got.wrong, got.decoded) == ([], N_PIXEL - S)
    assert got.notes == [f"gpu_reader: {S} tiles decoded on the host: zstd frame does not declare its content size"]


@pytest.mark.parametrize("kvikio", [False, True])
@pytest.mark.parametrize("damage", ["a bit", "cut", "gone"])
def test_what_the_host_refuses_is_refused_with_its_words(damaged: Path, damage: str, kvikio: bool) -> None:
    """And no slot is lost: as many lanes as slots, and none waits for ever."""
    file = sorted(damaged.glob("c.*"))[0]
    data = bytearray(file.read_bytes())
    if damage == "a bit":
        data[20] ^= 8
        file.write_bytes(bytes(data))
    elif damage == "cut":
        file.write_bytes(bytes(data[: len(data) // 3]))
    else:
        file.unlink()
    array, _ = open_counts(damaged)
    with pytest.raises(Unreadable) as host:
        array.read((slice(0, C), slice(0, D), slice(0, 1), slice(0, 1), slice(0, 1)), np.empty((C, D, 1, 1, 1), "i4"))
    with pytest.raises(Unreadable) as got:
        run_packed(damaged, EAGER, slots=1, n_lane=1, kvikio=kvikio)
    assert str(got.value) == str(host.value)


def test_a_decoder_that_says_nothing_is_not_believed(path: Path) -> None:
    """What it said of the tile before lies in the same memory: it must not pass for this one."""

    class Silent(SimDecoder):
        def decode(self, batch: object, stream: object) -> None:
            if self.n_frame == 0:
                super().decode(batch, stream)  # type: ignore[arg-type]

    for reader, wrong in ((packed, 0), (mutant_without("device.clear"), 1)):
        array, source = open_counts(path)
        device = SimDevice()
        own = reader.PackedReader(device, Silent(device), None, source)
        workers = Workers(1)
        tiles = stream.DeviceTiles(device, workers)
        first, second = cases()[0][:2]
        tiles.allocate(first.layout, 1, own)
        group = type("G", (), {"counts": array, "shape": array.shape})()
        spectra = []
        for c in (first, second):
            job = tiles.job(c.layout, wait=False)
            assert job is not None
            job.read(group, c.tile)
            job.start(c.given)
            spectra.append(job.finish().spectra.tobytes())
            job.release()
        workers.close()
        assert sum(a != b for a, b in zip(spectra, (first.spectra, second.spectra), strict=True)) == wrong
        assert len(own.notes()) == 1 - wrong


def test_notes_name_the_most_frequent_reasons(path: Path) -> None:
    device = SimDevice()
    reader = PackedReader(device, SimDecoder(device), None, open_counts(path)[1])
    for reason in ("b", "a", "b", "c", "d", "e", "f"):
        reader.decline(reason)
    found = [note.removeprefix("gpu_reader: ").replace(" tiles decoded on the host: ", " ") for note in reader.notes()]
    assert found == ["2 b", "1 a", "1 c", "1 d", "2 other reasons"]


# --- memory


def test_slots_are_made_anew_where_they_do_not_fit_what_is_packed(path: Path) -> None:
    _, source = open_counts(path)
    device, workers = SimDevice(), Workers(1)
    tiles, layout = stream.DeviceTiles(device, workers), cases()[0][2].layout
    reader = PackedReader(device, SimDecoder(device), None, source)
    tiles.allocate(layout, 2)
    plain = set(device.live_blocks)
    tiles.allocate(layout, 2, reader)
    assert len(device.live_blocks) == 2 * len(plain)
    held = set(device.live_blocks)
    tiles.allocate(cases()[0][0].layout, 2, reader)
    tiles.allocate(layout, 2)
    assert set(device.live_blocks) == held
    assert tiles.packed is None
    tiles.free()
    assert device.live_blocks == []
    workers.close()


@pytest.mark.parametrize("k", range(16))
def test_any_allocation_that_fails_gives_all_back(path: Path, k: int) -> None:
    _, source = open_counts(path)
    device, workers = SimDevice(faults=Faults(allocation=k)), Workers(1)
    tiles = stream.DeviceTiles(device, workers)
    with pytest.raises(OutOfDeviceMemory):
        tiles.allocate(cases()[0][2].layout, 2, PackedReader(device, SimDecoder(device), None, source))
    assert device.live_blocks == []
    workers.close()


def test_the_bytes_of_a_slot_are_those_that_it_takes(path: Path) -> None:
    _, source = open_counts(path)
    device, workers, layout = SimDevice(), Workers(1), cases()[0][2].layout
    reader = PackedReader(device, SimDecoder(device), None, source)
    used = []
    for own in (None, reader):
        before = device.free_bytes()
        tiles = stream.DeviceTiles(device, workers)
        tiles.allocate(layout, 1, own)
        used.append(before - device.free_bytes())
    assert used[1] - used[0] == reader.device_bytes(layout)
    workers.close()


def test_the_table_is_small_beside_what_it_is_for() -> None:
    assert table_layout(4).nbytes <= 1024


# --- mutants: all that keeps the order is needed


def sites(tree: ast.AST) -> list[tuple[list[ast.stmt], int]]:
    """Every call to the device or the decoder in PackedTile that stands alone."""
    (own,) = (n for n in ast.walk(tree) if isinstance(n, ast.ClassDef) and n.name == "PackedTile")
    return [
        (function.body, i)
        for function in own.body if isinstance(function, ast.FunctionDef) and function.name != "decoded"
        for i, statement in enumerate(function.body)
        if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Call)
        and not ast.unparse(statement).startswith("self.reader.decline")
    ]  # fmt: skip


def mutants() -> Iterator[tuple[str, types.ModuleType]]:
    original = ast.parse(inspect.getsource(packed))
    for k, (body, i) in enumerate(sites(original)):
        text = ast.unparse(body[i])
        for change in ("without", "earlier"):
            tree = copy.deepcopy(original)
            statements, at = sites(tree)[k]
            if change == "without":
                statements[at] = ast.copy_location(ast.Pass(), statements[at])
            elif text.startswith("device.record") and at:
                statements[at - 1], statements[at] = statements[at], statements[at - 1]
            else:
                continue
            module = types.ModuleType(packed.__name__)
            module.__dict__["__file__"] = packed.__file__
            exec(compile(ast.fix_missing_locations(tree), str(packed.__file__), "exec"), module.__dict__)
            yield f"{change} {text}", module


def mutant_without(call: str) -> types.ModuleType:
    (found,) = (module for name, module in mutants() if name.startswith(f"without {call}("))
    return found


MUTANTS = [(name, module) for name, module in mutants() if "device.clear" not in name]


def test_there_are_mutants() -> None:
    assert len(MUTANTS) >= 11


@pytest.mark.parametrize(("name", "module"), MUTANTS, ids=[name for name, _ in MUTANTS])
def test_a_mutant_is_caught(path: Path, name: str, module: types.ModuleType) -> None:
    def wrong(schedule: Schedule, kvikio: bool) -> bool:
        try:
            got = run_packed(path, schedule, kvikio=kvikio, module=module)
        except (AssertionError, Unreadable):
            return True
        return bool(got.wrong or got.notes)

    assert any(wrong(*case) for case in itertools.product([EAGER, *stragglers(STREAMS)], [True, False]))
