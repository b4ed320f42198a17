"""``streamrnn bench``: how fast it is here, beside others, and beside what the machine could do."""

from __future__ import annotations

import datetime
import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from ..errors import ConfigError, FileError
from .known import options_for
from .options import Constants, Shapes, States

__all__ = ["bench"]


def bench(
    file: Annotated[
        Path | None, typer.Argument(help="A model of your own, in place of everything else.")
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Fewer sizes, half a minute.")] = False,
    only: Annotated[
        str, typer.Option(help="Sections: steps,ops,blocks,pools,models,start,jitter,endurance.")
    ] = "",
    cells: Annotated[str, typer.Option(help="Of LSTM,GRU,RNN.")] = "",
    sizes: Annotated[
        str, typer.Option(help="Hidden sizes, in each section; unless given, each has its own.")
    ] = "",
    layers: Annotated[str, typer.Option(help="Layers of stacks in steps. [default: 1,3]")] = "",
    blocks: Annotated[str, typer.Option(help="Frames of a block. [default: 16,256]")] = "",
    batches: Annotated[str, typer.Option(help="Streams. [default: 16,64,1024]")] = "",
    peers: Annotated[
        str, typer.Option(help="Who is compared with, by name as in the tables.")
    ] = "",
    endurance_steps: Annotated[
        int, typer.Option(min=1, help="Frames of the endurance run.")
    ] = 100_000_000,
    out: Annotated[
        Path | None,
        typer.Option(help="Write OUT.md, OUT.json and pictures OUT_*.png.", metavar="OUT"),
    ] = None,
    shape: Shapes = None,
    constant: Constants = None,
    state: States = None,
) -> None:
    """Measure speed beside onnxruntime, torch, OpenVINO, tract and NumPy, as far as installed.

    Lists are separated by commas. A full run takes about ten minutes, half of them for real models
    in new processes with an empty cache of kernels. It has cells in all sizes from 8 to 1024 for a
    single layer, three layers at 64 and 256; blocks at 32, 128 and 512; pools at 64, 128 and 256;
    torch.compile only at 64 and 256. --sizes takes the same sizes everywhere; all sizes with all
    blocks and batches would take hours.

    All contenders of a row run the same function on one thread, by turns, and their outputs are
    compared first: exit code 1 if they disagree. Speed never fails. Ctrl-C shows what has been
    measured so far. NumPy takes part if OPENBLAS_NUM_THREADS=1 is set.
    """
    from ..bench import pictures, plan
    from ..bench.machine import machine
    from ..bench.models import ModelFile
    from ..bench.report import Report

    model = None
    if file is not None:
        options = options_for(file, shape, constant, state)
        model = ModelFile(file.name, file, options)
        only = only or "models"
    try:
        chosen = plan.plan(
            quick,
            sections=_names(only),
            cells=tuple(cell.upper() for cell in _names(cells)),
            sizes=_numbers("--sizes", sizes),
            layers=_numbers("--layers", layers),
            blocks=_numbers("--blocks", blocks),
            batches=_numbers("--batches", batches),
            peers=_names(peers),
            endurance_steps=endurance_steps,
        )
    except ConfigError as error:
        raise typer.BadParameter(str(error)) from None
    if out is not None and not out.parent.is_dir():
        raise FileError(f"--out {out}: there is no folder {out.parent}")
    found = Report(
        command=shlex.join(["streamrnn", *sys.argv[1:]]),
        date=datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        effort=chosen.effort,
        machine=machine(),
    )
    try:
        plan.run(chosen, found, model)
    except KeyboardInterrupt:
        found.interrupted = True
    typer.echo(found.markdown())
    if out is not None:
        written = [out.with_suffix(".md"), out.with_suffix(".json")]
        for path, text in zip(written, (found.markdown(), found.as_json()), strict=True):
            path.write_text(text, encoding="utf-8")
        written += pictures.draw(found, out)
        typer.echo(f"Written: {', '.join(map(str, written))}")
    if found.interrupted:
        raise typer.Exit(130)


def _names(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


def _numbers(option: str, text: str) -> tuple[int, ...]:
    try:
        return tuple(map(int, _names(text)))
    except ValueError:
        raise typer.BadParameter(
            f"expected whole numbers with commas between them, got {text!r}", param_hint=option
        ) from None
