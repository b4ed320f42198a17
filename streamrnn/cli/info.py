"""``streamrnn info``: what a model is once it has been loaded."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.console import Console
from rich.table import Table

from ..describe import describe_model
from ..errors import FileError
from ..files import load
from ..layer import Model

__all__ = ["info"]


def info(
    file: Annotated[Path, typer.Argument(help="A .onnx, .safetensors, .keras, .h5 or .json file.")],
    shape: Annotated[
        list[str] | None,
        typer.Option(
            help="Shape of an ONNX input, as NAME=1,576; a word, such as time, is the time axis of "
            "a sequence: NAME=1,time,40."
        ),
    ] = None,
    constant: Annotated[
        list[str] | None,
        typer.Option(help="An ONNX input that never changes, as NAME=16000 or NAME=1,2,3."),
    ] = None,
    state: Annotated[
        list[str] | None,
        typer.Option(help="Which output of an ONNX graph feeds which input, as INPUT=OUTPUT."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show what a model takes, makes, keeps and costs.

    For an ONNX graph it also shows which output feeds which input as a state, and what told so.
    Exit code 1 if the file cannot be loaded; the reason names the node.
    """
    options = {
        "shapes": {n: _dims(text) for n, text in _pairs("--shape", shape).items()},
        "constants": {n: _array(text) for n, text in _pairs("--constant", constant).items()},
        "states": _pairs("--state", state) if state else None,
    }
    if file.suffix == ".onnx":
        model, pairs = _read_onnx(file, options)
    elif any(options.values()):
        raise FileError(f"{file}: --shape, --constant and --state are for .onnx files")
    else:
        model, pairs = load(file), []
    found = {"file": str(file), **describe_model(model), "state_pairs": pairs}
    if as_json:
        typer.echo(json.dumps(found, indent=2))
    else:
        # Names are a foreign file's: no markup in them is followed.
        _show(Console(soft_wrap=False, highlight=False, markup=False, emoji=False), found)


def _read_onnx(file: Path, options: Mapping[str, Any]) -> tuple[Model, list[dict[str, Any]]]:
    """Return the model of an ONNX file, and the pairs of states in its graph."""
    try:
        from ..importers.onnx import read_onnx
    except ImportError:
        raise FileError(f"{file}: reading ONNX needs onnx: pip install streamrnn[onnx]") from None
    _, reader = read_onnx(file, **options)
    model = load(file, **options)
    pairs = [
        {
            "input": name,
            "output": output,
            "shape": list(reader.shapes[name]),
            "told_by": reader.pairs.told_by[name],
        }
        for name, output in reader.pairs.items()
    ]
    return model, pairs


def _pairs(option: str, texts: Sequence[str] | None) -> dict[str, str]:
    """Return ``NAME=VALUE`` texts as a dictionary."""
    found = {}
    for text in texts or ():
        name, sign, value = text.rpartition("=") if option == "--state" else text.partition("=")
        if not (name and sign and value):
            raise typer.BadParameter(f"expected NAME=VALUE, got {text!r}", param_hint=option)
        if name in found:
            raise typer.BadParameter(f"{name!r} is given twice", param_hint=option)
        found[name] = value
    return found


def _dims(text: str) -> list[int | None]:
    """Return ``1,time,40`` as a shape, None for the word."""
    dims = [part.strip() for part in text.split(",")]
    if not all(d.isidentifier() or (d.isdecimal() and len(d) < 19) for d in dims):
        raise typer.BadParameter(
            f"expected whole numbers, or a word for the time axis, got {text!r}",
            param_hint="--shape",
        )
    return [int(d) if d.isdecimal() else None for d in dims]


def _array(text: str) -> Any:
    """Return ``16000`` or ``0.5,1`` as an array: int64 where all are whole, else float32."""
    parts = text.split(",")
    for kind, read in ((np.int64, int), (np.float32, float)):
        try:
            array = np.array([read(p) for p in parts], kind)
        except (ValueError, OverflowError):
            continue
        return array if len(parts) > 1 else array.reshape(())
    raise typer.BadParameter(f"expected numbers, got {text!r}", param_hint="--constant")


def _show(console: Console, found: Mapping[str, Any]) -> None:
    console.print(found["file"], style="bold", soft_wrap=True)
    frames = _table("", "name", "frame")
    for way in ("inputs", "outputs"):
        for name, frame in found[way].items():
            kind = "" if frame["dtype"] == "float32" else f" {frame['dtype']}"
            frames.add_row(way[:-1], name, f"{_tuple(frame['shape'])}{kind}")
    console.print(frames)
    if found["states"]:
        states = _table("state", "shape", "bytes", "begins with")
        for name, shape in found["states"].items():
            begins = _begins(*found["state_begins"][name])
            states.add_row(name, _tuple(shape), f"{4 * math.prod(shape):,}", begins)
        console.print()
        console.print(states)
    if found["state_pairs"]:
        told = _table("state input", "fed by output", "shape", "told by")
        for pair in found["state_pairs"]:
            told.add_row(pair["input"], pair["output"], _tuple(pair["shape"]), pair["told_by"])
        console.print()
        console.print(told)
    field = found["receptive_field_frames"]
    rows = {
        "output": f"every {_count(found['stride_frames'], 'frame')}, "
        f"{_count(found['delay_frames'], 'frame')} late",
        "depends on": "all frames so far" if field is None else _count(field, "frame"),
        "state": f"{found['state_bytes']:,} bytes a stream",
        "weights": f"{found['parameters']:,} numbers, {found['weight_bytes'] / 1e6:.2f} MB",
        "work": f"{found['multiply_adds']:,} multiply-adds a frame",
        "ops": ", ".join(f"{n} {kind}" for kind, n in found["ops"].items()),
    }
    facts = Table(box=None, pad_edge=False, show_header=False)
    facts.add_column(style="dim", no_wrap=True)
    facts.add_column()
    for name, text in rows.items():
        facts.add_row(name, text)
    console.print()
    console.print(facts)


def _table(*heads: str) -> Table:
    """Return a table without lines that folds long names instead of cutting them off."""
    table = Table(box=None, pad_edge=False, header_style="dim")
    for head in heads:
        table.add_column(head, overflow="fold")
    return table


def _begins(smallest: float, largest: float) -> str:
    if smallest == largest:
        return "zeros" if smallest == 0 else f"{smallest:g}"
    return f"{smallest:.3g} to {largest:.3g}"


def _tuple(shape: Sequence[int]) -> str:
    return str(tuple(shape))


def _count(n: int, what: str) -> str:
    return f"{n} {what}{'' if n == 1 else 's'}"
