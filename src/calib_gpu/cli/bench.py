"""``calib-gpu bench``: how fast the engine is here, beside the floor and what a user would write."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from calib_gpu.cli.common import app
from calib_gpu.errors import ConfigError


@app.command()
def bench(
    l0: Annotated[Path | None, typer.Argument(help="L0 store to measure with; without one, a simulated store.")] = None,
    preset: Annotated[str, typer.Option(help="tiny | S | M | L")] = "M",
    workers: Annotated[
        str | None, typer.Option(help="Numbers of threads, e.g. 1,2; default one and all cores.")
    ] = None,
    repeat: Annotated[int, typer.Option(help="Runs of each contender, in turn; medians are shown.")] = 5,
    cases: Annotated[str | None, typer.Option(help="Only these cases, e.g. floor,dask; see below.")] = None,
    cold: Annotated[bool, typer.Option("--cold", help="Engine and floor also with a cold page cache.")] = False,
    quick: Annotated[bool, typer.Option("--quick", help="Preset S, one run, the short cases: half a minute.")] = False,
    work: Annotated[
        Path | None, typer.Option(help="Folder for stores and outputs; on the disk to be measured.")
    ] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write all numbers to this file.")] = None,
    from_json: Annotated[
        Path | None, typer.Option("--from", help="Measure nothing; show what --json has written.")
    ] = None,
    markdown: Annotated[bool, typer.Option("--markdown", help="Tables in Markdown.")] = False,
) -> None:
    """Measure the engine beside the floor, the scripts that a user would write, and tensorstore.

    Cases: floor, numpy, dask, precision, reads, chunks, growth, overhead, help. Every run is a process of its own;
    contenders run in turn. Stores and outputs are removed at the end. Preset M needs 30 GB of disk and ten minutes
    to half an hour.

    Example: `calib-gpu bench --quick`
    """
    from calib_gpu.bench.report import read_found, tables

    if from_json is not None:
        show(tables(read_found(from_json)), markdown=markdown)
        return
    import tempfile

    from calib_gpu.bench.cases import CASES, Options, run_bench
    from calib_gpu.store.disk import make_dirs

    if quick:
        preset, repeat = "S", 1
    chosen = parse_names(cases)
    if work is not None:
        make_dirs(work)
    with tempfile.TemporaryDirectory(prefix="calib-gpu-bench-", dir=work) as folder:
        options = Options(Path(folder), preset, l0, parse_numbers(workers), repeat, chosen, cold)
        skipped = () if chosen or not quick else tuple(name for name, case in CASES.items() if not case.quick)
        found = run_bench(options, lambda text: typer.echo(text, err=True), skipped)
    if json_file is not None:
        json_file.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    show(tables(found), markdown=markdown)


def parse_names(text: str | None) -> tuple[str, ...]:
    """Names between commas."""
    return tuple(part.strip() for part in text.split(",") if part.strip()) if text else ()


def parse_numbers(text: str | None) -> tuple[int, ...]:
    """Numbers between commas."""
    try:
        return tuple(int(part) for part in parse_names(text))
    except ValueError:
        raise ConfigError("not numbers", array="--workers", value=text, rule="e.g. 1,2") from None


def show(made: list[Any], *, markdown: bool) -> None:
    """Print the tables."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from calib_gpu.bench.report import as_markdown

    if markdown:
        typer.echo(as_markdown(made))
        return
    console = Console(width=None if sys.stdout.isatty() else 160)
    for table in made:
        console.print(f"\n{table.title}", style="bold", markup=False)
        shown = Table()
        for column in table.columns:
            shown.add_column(column, overflow="fold")
        for row in table.rows:
            shown.add_row(*map(Text, row))
        console.print(shown)
        for note in table.notes:
            console.print(f"  {note}", markup=False)
