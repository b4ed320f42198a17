"""``streamrnn warmup``: kernels compiled when a machine or an image is set up."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from ..files import load
from ..kernels.cache import cache_folder
from ..kernels.compile import Part
from ..warm import parts_of
from ..warm import warmup as warm_up
from .known import options_for
from .options import Constants, Shapes, States

__all__ = ["warmup"]


def warmup(
    models: Annotated[
        list[Path] | None, typer.Argument(help="Model files; their kernels are compiled.")
    ] = None,
    everything: Annotated[
        bool, typer.Option("--all", help="Compile every kernel that the library has.")
    ] = False,
    jobs: Annotated[
        int | None,
        typer.Option("--jobs", min=1, help="Processes that compile; one for each CPU unless said."),
    ] = None,
    show: Annotated[
        bool, typer.Option("--list", help="List the kernels and compile nothing.")
    ] = False,
    check: Annotated[
        bool,
        typer.Option("--check", help="Compile nothing; exit code 1 if one is missing or damaged."),
    ] = False,
    shape: Shapes = None,
    constant: Constants = None,
    state: States = None,
) -> None:
    """Compile what models need, so that their first stream or pool on this machine starts at once.

    Exit code 1 if a model cannot be loaded, a kernel is missing or damaged (--check) or the kernels
    cannot be kept; 2 if an argument is wrong.
    """
    if everything == bool(models):
        raise typer.BadParameter("name model files, or say --all", param_hint="MODELS")
    loaded = [load(path, **options_for(path, shape, constant, state)) for path in models or ()]
    console = Console(soft_wrap=True, highlight=False, markup=False, emoji=False)
    if show or check:
        _look(console, parts_of(*loaded), show, check)
        return
    columns = (TextColumn("compiling kernels"), BarColumn(), MofNCompleteColumn())
    err = Console(stderr=True)
    with Progress(*columns, TimeElapsedColumn(), console=err, transient=True) as bar:
        task = bar.add_task("", total=None)
        done = warm_up(
            *loaded, jobs=jobs, told=lambda n, of: bar.update(task, completed=n, total=of)
        )
    console.print(f"{done.kernels} kernels, {done.compiled} compiled now in {done.seconds:.1f} s")
    console.print(f"kept in {done.folder}")
    _look(console, parts_of(*loaded), show=False, check=True, count=False)


def _look(console: Console, parts: list[Part], show: bool, check: bool, count: bool = True) -> None:
    """List what is on disk; end with 1 if it is to be checked and something is wrong.

    Every file is read, and held against its checksum.
    """
    files = [(part.name, part.kept_file()) for part in sorted(parts, key=lambda part: part.name)]
    missing = [name for name, file in files if file is None]
    damaged = [(name, file.path) for name, file in files if file is not None and not file.is_whole]
    for name, file in files if show else ():
        state = "missing" if file is None else "kept   " if file.is_whole else "damaged"
        console.print(f"{state} {name}")
    if count:
        wrong = f"{len(missing)} missing" + (f", {len(damaged)} damaged" if damaged else "")
        console.print(f"{len(files)} kernels, {wrong} in {cache_folder()}")
    if check and missing:
        console.print(f"missing: {', '.join(missing)}")
    for name, path in damaged if check else ():
        console.print(f"damaged: {name} ({path}); without --check it is compiled anew")
    if check and (missing or damaged):
        raise typer.Exit(1)
