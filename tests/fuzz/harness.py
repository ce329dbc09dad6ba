"""Runs a target under atheris (extra ``fuzz``): coverage-guided, from the committed corpus.

``python tests/fuzz/fuzz_NAME.py -max_total_time=SECONDS``; other options of libFuzzer go through. New inputs go to a folder
that is thrown away, crashes to ``fuzz-crashes/NAME-...`` where it is called. Exit code 0: no crash; 2: atheris is missing,
nothing was tested; else a crash. A crash becomes a file of ``tests/fuzz/corpus/NAME``, which every run of the tests replays.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
NO_ATHERIS = 2


def main(name: str) -> None:
    """Fuzz the target of that name until the time is over."""
    try:
        import atheris
    except ImportError as error:
        python = ".".join(map(str, sys.version_info[:2]))
        print(f"NOT FUZZED: {name}: atheris cannot be imported by Python {python} ({error}).", file=sys.stderr)
        print(
            "Install the extra: pip install '.[fuzz]'; it has wheels for CPython 3.11 to 3.13 on Linux.",
            file=sys.stderr,
        )
        sys.exit(NO_ATHERIS)
    sys.path.insert(0, str(HERE))
    with atheris.instrument_imports(include=["calib_gpu", "targets"]):
        from targets import TARGETS
    crashes = Path("fuzz-crashes")
    crashes.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f"fuzz-{name}-") as found:
        arguments = [
            sys.argv[0],
            f"-artifact_prefix={crashes}/{name}-",
            "-timeout=10",
            "-rss_limit_mb=2048",
            *sys.argv[1:],
        ]
        atheris.Setup([*arguments, found, str(HERE / "corpus" / name)], TARGETS[name])
        atheris.Fuzz()
