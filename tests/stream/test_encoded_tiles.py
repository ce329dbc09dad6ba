"""Spectra that the device encodes: what is written holds those of the NumPy backend under every schedule, whatever is wrong."""

from __future__ import annotations

import ast
import copy
import inspect
import types
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import zstandard

from calib_gpu import encoded, stream
from calib_gpu.backend.decoder import SUCCESS
from calib_gpu.backend.encoder import frame_table
from calib_gpu.encoded import TileEncoder
from calib_gpu.errors import OutOfDeviceMemory
from calib_gpu.store.codecs import Compressor
from calib_gpu.testing.order import OrderFault
from calib_gpu.testing.schedule import Schedule, schedules, stragglers
from calib_gpu.testing.sim import EAGER, Faults, SimDevice
from calib_gpu.testing.sim_decoder import SimEncoder
from calib_gpu.workers import Workers
from device_tiles import CASES, Case, decoded, run_tiles
from mutant_runs import OF_STREAM
from mutants import Mutant

STREAMS = ("upload", "compute", "download", "encode")
HOST = Compressor("zstd_crc32c", 1)
LAYOUTS = [c.layout for lane in CASES for c in lane]
LARGEST = max(LAYOUTS, key=lambda layout: layout.output.nbytes)
N_CHUNK = sum(layout.r * layout.a * layout.n_block for layout in LAYOUTS)


class Made:
    """Makes the encoder of a device, and keeps it."""

    def __init__(self, module: types.ModuleType = encoded, **hooks: Callable[..., Any]) -> None:
        self.module, self.hooks = module, hooks

    def __call__(self, device: SimDevice) -> TileEncoder:
        self.sim = SimEncoder(device, **self.hooks)
        self.encoder: TileEncoder = self.module.TileEncoder(device, self.sim, HOST)
        return self.encoder

    @property
    def notes(self) -> list[str]:
        return self.encoder.notes()


@pytest.mark.parametrize("schedule", schedules(STREAMS, 30), ids=str)
def test_every_schedule_gives_the_spectra_of_the_numpy_backend(schedule: Schedule) -> None:
    seed, made = sum(map(ord, str(schedule))), Made()
    n_lane = 1 + seed % 3
    assert run_tiles(schedule, 1 + seed % 4, n_lane, encoder=made) == []
    n = sum(c.layout.r * c.layout.a * c.layout.n_block for lane in CASES[:n_lane] for c in lane)
    assert (made.notes, made.sim.n_frame) == ([], n)


def test_a_lane_that_fails_leaves_nothing_behind() -> None:
    for schedule in (EAGER, *stragglers(STREAMS)):
        assert run_tiles(schedule, 2, 3, fail_after=3, encoder=Made()) == []


# --- what may be wrong with a frame: the host encodes that chunk


def other_content(k: int, frame: bytes) -> bytes:
    data = bytearray(zstandard.ZstdDecompressor().decompress(frame))
    data[9] ^= 1
    return zstandard.ZstdCompressor(1, write_content_size=True).compress(bytes(data))


def undeclared(k: int, frame: bytes) -> bytes:
    compressor = zstandard.ZstdCompressor(1, write_content_size=False)
    return compressor.compress(zstandard.ZstdDecompressor().decompress(frame))


FRAMES: dict[str, tuple[dict[str, Any], str]] = {
    "cut": ({"spoil": lambda k, frame: frame[:-1]}, "cut short|bytes in"),
    "a byte behind": ({"spoil": lambda k, frame: frame + b"\0"}, "zstd frame of"),
    "two frames": ({"spoil": lambda k, frame: frame + zstandard.ZstdCompressor(1).compress(b"")}, "bytes in"),
    "no size declared": ({"spoil": undeclared}, "does not declare its content size"),
    "another size": ({"spoil": lambda k, frame: zstandard.ZstdCompressor(1).compress(bytes(8))}, "decodes to 8 bytes"),
    "no frame": ({"spoil": lambda k, frame: bytes(len(frame))}, "not a zstd frame"),
    "a status": ({"answer": lambda k, status, size: (12, size)}, "gives up on a chunk .status 12"),
    "no bytes": ({"answer": lambda k, status, size: (status, 0)}, "impossible size"),
    "more than its place": ({"answer": lambda k, status, size: (status, 1 << 40)}, "impossible size"),
}  # fmt: skip


@pytest.mark.parametrize("name", FRAMES)
@pytest.mark.parametrize("every", [1, 3])
def test_a_frame_that_is_not_sound_is_encoded_by_the_host(name: str, every: int) -> None:
    hooks, reason = FRAMES[name]

    def some(hook: Callable[..., Any]) -> Callable[..., Any]:
        def changed(k: int, *given: Any) -> Any:
            if k % every == 0:
                return hook(k, *given)
            return given[0] if len(given) == 1 else given

        return changed

    made = Made(**{key: some(hook) for key, hook in hooks.items()})
    assert run_tiles(EAGER, 2, 3, encoder=made) == []
    assert sum(int(note.split()[1]) for note in made.notes) == -(-N_CHUNK // every)
    assert made.notes[0].startswith("codec=nvcomp_zstd: ")
    assert any(part in made.notes[0] for part in reason.replace(".", "(").split("|"))


def test_frames_of_other_spectra_are_not_believed() -> None:
    """They are whole, and nothing but their content tells: the last of a tile is looked at, and then none is written."""
    made = Made(spoil=other_content)
    assert run_tiles(EAGER, 2, 3, encoder=made) == []
    (note,) = made.notes
    assert (
        note
        == f"codec=nvcomp_zstd: {N_CHUNK} chunks encoded on the host: a frame holds other spectra than those of its tile"
    )


def test_frames_that_cannot_be_decoded_are_not_believed() -> None:
    """Whole as far as the sizes of their blocks tell."""

    def scrambled(k: int, frame: bytes) -> bytes:
        data = bytes(range(1, 100))
        block = (len(data) << 3 | 2 << 1 | 1).to_bytes(3, "little")  # compressed, and the last one
        return frame[: zstandard.frame_header_size(frame)] + block + data

    made = Made(spoil=scrambled)
    assert run_tiles(EAGER, 2, 3, encoder=made) == []
    (note,) = made.notes
    assert note.startswith(f"codec=nvcomp_zstd: {N_CHUNK} chunks encoded on the host: a frame cannot be decoded")


@pytest.mark.parametrize("schedule", [EAGER, Schedule("lazy")], ids=str)
def test_an_encoder_that_says_nothing_is_not_believed(schedule: Schedule) -> None:
    """What it said of the tile before lies in the same memory: it must not pass for this one, not even to be looked at."""

    class Silent(SimEncoder):
        def encode(self, chunks: Any, stream: Any) -> None:
            if self.n_frame == 0:
                super().encode(chunks, stream)

    found = []
    for module in (encoded, mutant_without("device.clear")):
        device, workers = SimDevice(schedule), Workers(1)
        own = module.TileEncoder(device, Silent(device), HOST)
        tiles = stream.DeviceTiles(device, workers)
        tiles.allocate(LARGEST, 1, None, own)
        case = CASES[0][0]
        for _ in range(2):
            assert decoded_by(tiles, case) == case.spectra
        workers.close()
        found.append(own.notes())
    assert ["impossible size" in "".join(notes) for notes in found] == [True, False]


def decoded_by(tiles: stream.DeviceTiles, case: Case) -> bytes:
    job = tiles.job(case.layout, wait=False)
    assert job is not None
    job.counts[...] = case.counts
    job.start(case.tile)
    out = job.finish()
    assert out.frames is not None
    found = decoded(out.frames, case.layout)
    job.release()
    return found


def test_a_frame_says_what_a_reader_needs() -> None:
    """Content size, no checksum of its own, crc32c behind: what the document of the array says."""
    device, workers = SimDevice(), Workers(1)
    tiles, case = stream.DeviceTiles(device, workers), CASES[0][1]
    tiles.allocate(LARGEST, 1, None, TileEncoder(device, SimEncoder(device), HOST))
    job = tiles.job(case.layout, wait=False)
    assert job is not None
    job.counts[...] = case.counts
    job.start(case.tile)
    out = job.finish()
    assert out.frames is not None
    for chunk, data in zip(out.spectra[0, 0], out.frames.pixel(0, 0), strict=True):
        parameters = zstandard.get_frame_parameters(data)
        assert (parameters.content_size, parameters.has_checksum) == (chunk.nbytes, False)
        assert zstandard.ZstdDecompressor().decompress(data[:-4]) == chunk.tobytes()
    job.release()
    workers.close()


# --- memory


def encoder_of(device: SimDevice) -> TileEncoder:
    return TileEncoder(device, SimEncoder(device), HOST)


def test_slots_are_made_anew_where_they_do_not_fit_what_is_encoded() -> None:
    device, workers = SimDevice(), Workers(1)
    tiles, encoder = stream.DeviceTiles(device, workers), encoder_of(device)
    tiles.allocate(LARGEST, 2)
    plain = set(device.live_blocks)
    tiles.allocate(LARGEST, 2, None, encoder)
    assert len(device.live_blocks) == len(plain) + 2 * 5
    held = set(device.live_blocks)
    tiles.allocate(CASES[0][0].layout, 2, None, encoder)
    tiles.allocate(LARGEST, 2)
    assert set(device.live_blocks) == held
    assert tiles.encoder is None
    tiles.free()
    assert device.live_blocks == []
    workers.close()


@pytest.mark.parametrize("k", range(18))
def test_any_allocation_that_fails_gives_all_back(k: int) -> None:
    device, workers = SimDevice(faults=Faults(allocation=k)), Workers(1)
    tiles = stream.DeviceTiles(device, workers)
    with pytest.raises(OutOfDeviceMemory):
        tiles.allocate(LARGEST, 2, None, encoder_of(device))
    assert device.live_blocks == []
    workers.close()


def test_the_bytes_of_a_slot_are_those_that_it_takes() -> None:
    device, workers = SimDevice(), Workers(1)
    used = []
    for own in (None, encoder_of(device)):
        before = device.free_bytes()
        stream.DeviceTiles(device, workers).allocate(LARGEST, 1, None, own)
        used.append(before - device.free_bytes())
    assert used[1] - used[0] == encoder_of(device).device_bytes(LARGEST)
    workers.close()


def test_places_do_not_overlap_and_answers_come_first() -> None:
    places = encoded.Places.of(LARGEST, SimEncoder(SimDevice()))
    starts = places.starts.astype(np.int64)
    assert starts[0] == frame_table(places.n).nbytes
    assert (np.diff(starts) >= places.bound).all()
    assert (starts % 256 == 0).all()
    assert places.nbytes == starts[-1]
    assert SUCCESS == 0, "answers are cleared to zero bytes: then the size tells"


# --- mutants: all that keeps the order is needed


def sites(tree: ast.AST) -> list[tuple[list[ast.stmt], int]]:
    """Every call to the device or the encoder in ``TileEncoder.enqueue`` that stands alone."""
    (enqueue,) = (n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef) and n.name == "enqueue")
    return [
        (enqueue.body, i) for i, statement in enumerate(enqueue.body)
        if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Call)
    ]  # fmt: skip


STREAM_ARGUMENTS = ("own.stream", "downloads")


def mutants() -> Iterator[tuple[str, types.ModuleType]]:
    """Each call left out; each record one statement earlier; each stream and event mistaken for another one."""
    original = ast.parse(inspect.getsource(encoded))

    def changed(k: int, change: Callable[[list[ast.stmt], int], None]) -> types.ModuleType:
        tree = copy.deepcopy(original)
        change(*sites(tree)[k])
        module = types.ModuleType(encoded.__name__)
        module.__dict__["__file__"] = encoded.__file__
        exec(compile(ast.fix_missing_locations(tree), str(encoded.__file__), "exec"), module.__dict__)
        return module

    def without(body: list[ast.stmt], i: int) -> None:
        body[i] = ast.copy_location(ast.Pass(), body[i])

    def earlier(body: list[ast.stmt], i: int) -> None:
        body[i - 1], body[i] = body[i], body[i - 1]

    for k, (body, i) in enumerate(sites(original)):
        text = ast.unparse(body[i])
        yield f"without {text}", changed(k, without)
        if text.startswith("device.record"):
            yield f"earlier {text}", changed(k, earlier)
        for old, new in (
            STREAM_ARGUMENTS,
            STREAM_ARGUMENTS[::-1],
            ("own.encoded", "slot.computed"),
            ("slot.computed", "own.encoded"),
        ):
            if old in text:

                def mistaken(body: list[ast.stmt], i: int, old: str = old, new: str = new) -> None:
                    body[i] = ast.parse(ast.unparse(body[i]).replace(old, new)).body[0]

                yield f"{new} instead of {old} | {text}", changed(k, mistaken)


def mutant_without(call: str) -> types.ModuleType:
    (found,) = (module for name, module in mutants() if name.startswith(f"without {call}("))
    return found


MUTANTS = [(name, module) for name, module in mutants() if not name.startswith("without device.clear")]
"""What a missing clear does only an encoder that says nothing shows: see the test of that."""


def wrong(schedule: Schedule, module: types.ModuleType, order: types.ModuleType = stream) -> bool:
    made = Made(module)
    try:
        return bool(run_tiles(schedule, 2, 3, module=order, encoder=made) or made.notes)
    except (AssertionError, OrderFault, zstandard.ZstdError):
        return True


def test_there_are_mutants() -> None:
    assert len(MUTANTS) >= 15
    assert not any(wrong(schedule, encoded) for schedule in [EAGER, *stragglers(STREAMS)])


@pytest.mark.parametrize(("name", "module"), MUTANTS, ids=[name for name, _ in MUTANTS])
def test_a_mutant_is_caught(name: str, module: types.ModuleType) -> None:
    assert any(wrong(schedule, module) for schedule in [EAGER, *stragglers(STREAMS)])


IMPLIED = "enqueue: device.wait(self.download, slot.computed)"
"""What is encoded is computed: with an encoder the download stream need not wait for both. Without one it must (test_mutants)."""


@pytest.mark.parametrize("mutant", [m for m in OF_STREAM if not m.name.endswith(IMPLIED)], ids=lambda m: m.name)
def test_a_mutant_of_the_tile_loop_is_caught_here_too(mutant: Mutant) -> None:
    """What is encoded does not hide what is missing elsewhere."""
    module = mutant.module(stream)

    def fails(schedule: Schedule, fail_after: int | None) -> bool:
        try:
            return bool(run_tiles(schedule, 2, 3, module=module, fail_after=fail_after, encoder=Made()))
        except Exception:
            return True

    assert any(fails(schedule, n) for n in (None, 3) for schedule in [EAGER, *stragglers(STREAMS)])
