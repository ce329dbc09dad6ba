"""The parsers of input that others wrote: whatever the bytes, they take it or refuse it as they should.

Hypothesis draws bytes, and sound inputs with a few bytes changed; the corpora of the fuzzers are replayed. The same
targets run under atheris by ``tests/fuzz/fuzz_NAME.py``.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

FUZZ = Path(__file__).parents[1] / "fuzz"
sys.path.insert(0, str(FUZZ))
from make_corpus import seeds  # noqa: E402
from targets import TARGETS  # noqa: E402

QUICK = settings(max_examples=150, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
SEEDS = {target: list(files.values()) for target, files in seeds().items()}
CORPUS = sorted(p for p in (FUZZ / "corpus").rglob("*") if p.is_file())


@pytest.mark.parametrize("path", CORPUS, ids=lambda p: f"{p.parent.name}/{p.name}")
def test_the_corpora(path: Path) -> None:
    TARGETS[path.parent.name](path.read_bytes())


def test_the_corpora_are_those_of_the_formats() -> None:
    for target, files in seeds().items():
        for name, content in files.items():
            assert (FUZZ / "corpus" / target / name).read_bytes() == content, "run tests/fuzz/make_corpus.py"


@pytest.mark.parametrize("target", TARGETS)
def test_any_bytes(target: str) -> None:
    @QUICK
    @given(st.binary(max_size=300))
    def run(data: bytes) -> None:
        TARGETS[target](data)

    run()


@pytest.mark.parametrize("target", TARGETS)
def test_changed_bytes(target: str) -> None:
    """A few bytes of a sound input replaced, taken away or put in."""

    @QUICK
    @given(st.data())
    def run(data: st.DataObject) -> None:
        raw = bytearray(data.draw(st.sampled_from(SEEDS[target])))
        for _ in range(data.draw(st.integers(1, 4))):
            start = data.draw(st.integers(0, len(raw)))
            end = min(len(raw), start + data.draw(st.integers(0, 8)))
            raw[start:end] = data.draw(st.binary(max_size=8))
        TARGETS[target](bytes(raw))

    run()


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


@QUICK
@given(st.data())
def test_changed_documents(data: st.DataObject) -> None:
    """Any value in the place of any value of a sound document."""
    document: Any = json.loads(data.draw(st.sampled_from(SEEDS["metadata"])))
    for _ in range(data.draw(st.integers(1, 3))):
        node = document
        while True:
            keys = list(node) if isinstance(node, dict) else list(range(len(node)))
            if not keys:
                break
            key = data.draw(st.sampled_from(keys))
            if isinstance(node[key], dict | list) and node[key] and data.draw(st.booleans()):
                node = node[key]
                continue
            node[key] = data.draw(values)
            break
    TARGETS["metadata"](json.dumps(document).encode())


@QUICK
@given(
    st.lists(st.tuples(st.integers(0, 120), st.integers(0, 60)) | st.just((2**64 - 1, 2**64 - 1)), max_size=5),
    st.integers(0, 200),
)
def test_indices_that_nearly_fit(entries: list[tuple[int, int]], end: int) -> None:
    TARGETS["shard_index"](end.to_bytes(4, "little") + b"".join(n.to_bytes(8, "little") for e in entries for n in e))


def test_without_atheris_it_says_so(tmp_path: Path) -> None:
    """A fuzzer that cannot run must not look like one that found nothing."""
    (tmp_path / "atheris.py").write_text("raise ImportError('planted')")
    done = subprocess.run(
        [sys.executable, str(FUZZ / "fuzz_frames.py"), "-max_total_time=1"], capture_output=True, text=True,
        cwd=tmp_path, env={"PYTHONPATH": str(tmp_path)}, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert "NOT FUZZED: frames" in done.stderr
