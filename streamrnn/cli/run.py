"""``streamrnn run``: a model on a file, a pipe or a live source."""

from __future__ import annotations

import json
import logging
import os
import sys
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.console import Console
from rich.table import Table

from ..decode import Hysteresis
from ..errors import StreamrnnError
from ..live import EventSink, JsonSink, Meter, Sink, Source, TextSink, Windows, sink_for
from ..live import run as run_frames
from ..profile import OpTime, profile
from .model import Loaded, load_model
from .options import Constants, Shapes, States, reading
from .picture import Recorded, draw
from .sources import Choices, Kept, framed, opened
from .watch import Watch, warnings_shown

__all__ = ["run"]

PROFILED_FRAMES = 200


def run(
    model: Annotated[Path, typer.Argument(help="A file that `streamrnn info` can show.")],
    source: Annotated[
        str,
        typer.Argument(
            help="A sound file, .npy, .csv, .parquet or a video; - is raw samples on standard "
            "input; live: mic:NAME, ws://HOST, mqtt://HOST/TOPIC, serial:PORT?baud=115200."
        ),
    ],
    probs: Annotated[
        bool,
        typer.Option(
            "--probs",
            help="Print a line for each output (what is done if no other output is asked for).",
        ),
    ] = False,
    events: Annotated[
        bool, typer.Option("--events", help="Print when something begins and ends.")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print a JSON object a line, the last one a summary.")
    ] = False,
    out: Annotated[
        Path | None, typer.Option(help="Write outputs to a file: .npy, .csv, .wav or .flac.")
    ] = None,
    threshold: Annotated[
        float, typer.Option(help="Probability from which on an event begins.")
    ] = 0.5,
    min_on_ms: Annotated[float, typer.Option(help="Shorter events are dropped.")] = 0.0,
    min_off_ms: Annotated[float, typer.Option(help="Shorter pauses do not end one.")] = 100.0,
    pad_ms: Annotated[float, typer.Option(help="Added to both ends of an event.")] = 30.0,
    hop: Annotated[
        int | None,
        typer.Option(help="New samples in each frame, where the model's frames overlap."),
    ] = None,
    model_rate: Annotated[
        float | None, typer.Option(help="Sample rate in Hz that the model hears.")
    ] = None,
    rate: Annotated[
        float | None,
        typer.Option(help="Sample rate in Hz of raw samples; with a .npy file, makes it samples."),
    ] = None,
    encoding: Annotated[
        str, typer.Option(help="Of raw samples and messages: s16le, f32le; text for messages.")
    ] = "s16le",
    channels: Annotated[int, typer.Option(help="Channels of raw samples.")] = 1,
    channel: Annotated[str, typer.Option(help="Which channel, from 0, or `mix`.")] = "mix",
    columns: Annotated[
        str | None, typer.Option(help="Columns of a table that are a frame: a,b,c.")
    ] = None,
    time_column: Annotated[
        str | None, typer.Option(help="Column of a table that is the time in seconds.")
    ] = None,
    frame_rate: Annotated[
        float, typer.Option(help="Frames a second of tables and arrays without times.")
    ] = 1.0,
    policy: Annotated[
        str,
        typer.Option(help="When a live source is faster than the model: block or drop_oldest."),
    ] = "block",
    timeout: Annotated[
        float | None, typer.Option(help="Seconds after which a silent live source has failed.")
    ] = None,
    retries: Annotated[
        int, typer.Option(help="Attempts in a row to open a live source again.")
    ] = 10,
    engine: Annotated[str, typer.Option(help="streamrnn or onnxruntime.")] = "streamrnn",
    with_profile: Annotated[
        bool, typer.Option("--profile", help="Show what each op takes of a frame.")
    ] = False,
    plot: Annotated[Path | None, typer.Option(help="Draw outputs and latencies.")] = None,
    shape: Shapes = None,
    constant: Constants = None,
    state: States = None,
) -> None:
    """Run a model on a source, frame by frame as if live.

    Outputs go to stdout or a file; a meter, warnings and a summary to stderr. Exit code 0 at the
    source's end, 1 if something cannot be opened or breaks off, 2 for wrong options, 130 after
    Ctrl-C; the summary comes in any case, and what was written so far is whole.
    """
    choices = Choices(
        rate, encoding, channels, _channel(channel),
        None if columns is None else [name.strip() for name in columns.split(",")],
        time_column, frame_rate, policy, timeout, retries,
    )  # fmt: skip
    wishes = _Wishes(probs, events, as_json, out, plot, with_profile)
    rule = {"on": threshold, "min_on_ms": min_on_ms, "min_off_ms": min_off_ms, "pad_ms": pad_ms}
    if frame_rate <= 0:
        raise typer.BadParameter(f"must be positive, got {frame_rate:g}", param_hint="--frame-rate")
    for read in (model, Path(source)):
        if out is not None and out.exists() and read.exists() and out.samefile(read):
            raise typer.BadParameter(f"{out} is what is read", param_hint="--out")
    if with_profile and engine != "streamrnn":
        raise typer.BadParameter("only streamrnn's own ops can be timed", param_hint="--profile")
    with warnings_shown():
        loaded = load_model(model, reading(model, shape, constant, state), engine)
        _announce(model, loaded)
        raw = opened(source, choices, loaded)
        with raw:
            if raw.sample_rate_hz is not None:
                loaded.hear()
            if model_rate is not None:
                loaded.metadata = {**loaded.metadata, "sample_rate": model_rate}
            frames = framed(raw, source, choices, loaded, hop)
            _go(loaded, frames, wishes, rule, frame_rate)


@dataclass(frozen=True)
class _Wishes:
    """Which outputs were asked for."""

    probs: bool
    events: bool
    as_json: bool
    out: Path | None
    plot: Path | None
    profile: bool


def _go(
    model: Loaded, source: Source, wishes: _Wishes, rule: dict[str, float], frame_rate_hz: float
) -> None:
    """Run, and say what came of it, however it ends."""
    console = Console(stderr=True, soft_wrap=True, highlight=False, markup=False, emoji=False)
    meter, code = Meter(), 0
    kept = Kept(source, PROFILED_FRAMES if wishes.profile else 0)
    recorded = Recorded()
    with kept, ExitStack() as open_things:
        watch = open_things.enter_context(Watch(console))
        sinks = _sinks(model, source, wishes, rule, frame_rate_hz)
        sinks += [recorded] if wishes.plot else []
        for sink in sinks:
            open_things.enter_context(sink)
        try:
            run_frames(model.stream, kept, sinks, meter, watch)
        except KeyboardInterrupt:
            code = 130
        except BrokenPipeError:  # whoever read has enough
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        except (OSError, StreamrnnError) as error:  # a full disk, say
            console.print(str(error), style="red")
            code = 1
    if not meter.frames and not code:
        console.print(f"{source.name}: gave no frame", style="red")
        code = 1
    _report(model, meter, kept, wishes, console)
    if wishes.plot is not None and meter.outputs:
        draw(wishes.plot, recorded, model.columns, meter)
    raise typer.Exit(code)


def _report(model: Loaded, meter: Meter, kept: Kept, wishes: _Wishes, console: Console) -> None:
    """Say how many frames there were, how long they took and what went wrong."""
    console.print(str(meter))
    summary: dict[str, Any] = {"summary": meter.as_dict()}
    if wishes.profile and kept.first and model.layer is not None:
        data = np.stack([frame.data for frame in kept.first])
        shape = model.stream.program.inputs[0].shape
        times = profile(model.layer, data.reshape(len(data), *shape))
        console.print(_table(times))
        summary["profile"] = [vars(t) for t in times]
    if wishes.as_json:
        typer.echo(json.dumps(summary))


def _sinks(
    model: Loaded, source: Source, wishes: _Wishes, rule: dict[str, float], frame_rate_hz: float
) -> list[Sink]:
    """Return where outputs go."""
    windows = _windows(source)
    clock = model.stream.program.clock
    period_s = clock.stride / frame_rate_hz
    rate_hz = None
    if windows is not None:
        period_s = clock.stride * windows.hop / windows.rate_hz
        rate_hz = model.stream.program.output_size / period_s
    sinks: list[Sink] = []
    if wishes.events:
        hysteresis = Hysteresis(frame_ms=1000 * period_s, **rule)
        sinks.append(EventSink(sys.stdout, model.columns, hysteresis, wishes.as_json))
    if wishes.out is not None:
        sinks.append(sink_for(wishes.out, model.output_shape, model.columns, rate_hz))
    if wishes.probs or not sinks:
        json_sink = JsonSink(sys.stdout, model.columns)
        sinks.append(json_sink if wishes.as_json else TextSink(sys.stdout))
    return sinks


def _windows(source: Source | None) -> Windows | None:
    """Return the stage that cuts samples, if there is one."""
    while source is not None and not isinstance(source, Windows):
        source = source.source
    return source


def _announce(path: Path, model: Loaded) -> None:
    """Say what was not asked for: options that a known model gets."""
    if model.known.name:
        logging.getLogger("streamrnn.live").warning(
            "%s: taken for %s (%g Hz, %d new samples a frame); --shape, --constant say otherwise",
            path.name, model.known.name, model.known.sample_rate_hz, model.known.hop,
        )  # fmt: skip


def _channel(text: str) -> int | str:
    if text != "mix" and not text.isdecimal():
        raise typer.BadParameter(
            f"expected a number or `mix`, got {text!r}", param_hint="--channel"
        )
    return text if text == "mix" else int(text)


def _table(times: list[OpTime]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim")
    for head in ("op", "kind"):
        table.add_column(head, overflow="fold")
    for head in ("µs a frame", "share"):
        table.add_column(head, justify="right")
    for t in times:
        table.add_row(t.name, t.op, f"{t.us:.2f}", f"{100 * t.share:.1f} %")
    return table
