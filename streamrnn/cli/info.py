"""``streamrnn info``: what a model is once it has been loaded."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from ..describe import describe_model
from ..errors import FileError
from ..files import load
from ..layer import Model
from .known import options_for
from .options import AsJson, Constants, Shapes, States

__all__ = ["info"]


def info(
    file: Annotated[Path, typer.Argument(help="A .onnx, .safetensors, .keras, .h5 or .json file.")],
    shape: Shapes = None,
    constant: Constants = None,
    state: States = None,
    each: Annotated[bool, typer.Option("--each", help="Show each op by itself.")] = False,
    as_json: AsJson = False,
) -> None:
    """Show what a model takes, makes, keeps and costs.

    For an ONNX graph it also shows which output feeds which input as a state, and what told so.
    Exit code 1 if the file cannot be loaded; the reason names the node.
    """
    options = options_for(file, shape, constant, state)
    model, pairs = _read_onnx(file, options) if options else (load(file), [])
    found = {"file": str(file), **describe_model(model), "state_pairs": pairs}
    if as_json:
        typer.echo(json.dumps(found, indent=2))
    else:
        # Names are a foreign file's: no markup in them is followed.
        _show(Console(soft_wrap=False, highlight=False, markup=False, emoji=False), found, each)


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


def _show(console: Console, found: Mapping[str, Any], each: bool) -> None:
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
    console.print()
    console.print(_costs(found["costs"], each))
    field = found["receptive_field_frames"]
    rows = {
        "output": f"every {_count(found['stride_frames'], 'frame')}, "
        f"{_count(found['delay_frames'], 'frame')} late",
        "depends on": "all frames so far" if field is None else _count(field, "frame"),
        "state": f"{found['state_bytes']:,} bytes a stream",
        "weights": f"{found['parameters']:,} numbers, {found['weight_bytes'] / 1e6:.2f} MB",
        "work": f"{found['multiply_adds']:,} multiply-adds and {found['bytes']:,} bytes a frame",
    }
    facts = Table(box=None, pad_edge=False, show_header=False)
    facts.add_column(style="dim", no_wrap=True)
    facts.add_column()
    for name, text in rows.items():
        facts.add_row(name, text)
    console.print()
    console.print(facts)


def _costs(costs: Sequence[Mapping[str, Any]], each: bool) -> Table:
    """Return what each op costs, or each kind of op."""
    rows: list[tuple[tuple[str, ...], Mapping[str, Any]]]
    if each:
        table = _table("op", "kind", "frame", "parameters", "multiply-adds", "bytes")
        rows = [((c["name"], c["op"], _tuple(c["shape"])), c) for c in costs]
    else:
        table = _table("op", "how many", "parameters", "multiply-adds", "bytes")
        kinds: dict[str, Counter[str]] = {}
        for c in costs:
            kinds.setdefault(c["op"], Counter()).update({"n": 1, **{k: c[k] for k in _COSTS}})
        dear = sorted(
            kinds.items(), key=lambda kind: (-kind[1]["bytes"], -kind[1]["multiply_adds"])
        )
        rows = [((kind, str(sums["n"])), sums) for kind, sums in dear]
    for column in table.columns[len(table.columns) - len(_COSTS) - (not each) :]:
        column.justify = "right"
    for words, numbers in rows:
        table.add_row(*words, *(f"{round(numbers[k]):,}" if numbers[k] else "" for k in _COSTS))
    return table


_COSTS = ("parameters", "multiply_adds", "bytes")


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
