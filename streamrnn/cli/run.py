"""``streamrnn run``: a model on a file, a pipe or a live source."""

from __future__ import annotations

import io
import json
import logging
import math
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.console import Console
from rich.table import Table as Columns

from ..decode import Hysteresis
from ..errors import ConfigError, StreamrnnError
from ..frontend.timestamps import ON_GAP
from ..live import (
    EventSink,
    JsonSink,
    Meter,
    MqttSender,
    Npy,
    Npz,
    Outbox,
    Sink,
    Source,
    Table,
    TextSink,
    WebSocketSender,
    Windows,
    sink_for,
)
from ..live import run as run_frames
from ..live.buffer import POLICIES
from ..live.sound import ENCODINGS
from ..profile import OpTime, profile
from .model import ENGINES, Loaded, load_model
from .options import Constants, Shapes, States, arrays_of, check_other, reading
from .picture import Recorded, draw, drawable
from .sources import Choices, Kept, framed, is_live, mqtt_words, opened
from .watch import Watch, ended_by_signals, warnings_shown

__all__ = ["run"]

PROFILED_FRAMES = 200
_TWO_CLOCKS = (
    "{} is a live source, and has a clock of its own: only SOURCE can be one, since frames of two "
    "cannot be matched. Let whoever sends them put both into one message or packet"
)


def _positive(value: float | None) -> float | None:
    if value is not None and not 0 < value < math.inf:
        raise typer.BadParameter(f"must be positive, got {value:g}")
    return value


def _one_of(*known: str) -> Callable[[str], str]:
    """Return a check that an option is one of these words."""

    def check(value: str) -> str:
        if value not in known:
            raise typer.BadParameter(f"must be one of {', '.join(known)}, got {value!r}")
        return value

    return check


def run(
    model: Annotated[Path, typer.Argument(help="A file that `streamrnn info` can show.")],
    source: Annotated[
        str,
        typer.Argument(
            help="A sound file, .npy, .npz (an array for each input), .csv, .parquet or a video; "
            "- is raw samples on standard input; live: mic:NAME, camera:0, ws://HOST, "
            "mqtt://HOST/TOPIC, serial:PORT?baud=115200 (lines of numbers; packets with "
            "&size=6&format=f32le&header=aa55&checksum=crc16)."
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
        str | None,
        typer.Option(
            help="Write outputs to a file: .npy, .csv, .wav or .flac; or send them, with --events "
            "events, as JSON lines to mqtt://HOST/TOPIC or ws://HOST."
        ),
    ] = None,
    threshold: Annotated[
        float, typer.Option(help="Probability from which on an event begins.")
    ] = 0.5,
    min_on_ms: Annotated[float, typer.Option(help="Shorter events are dropped.")] = 0.0,
    min_off_ms: Annotated[float, typer.Option(help="Shorter pauses do not end one.")] = 100.0,
    pad_ms: Annotated[float, typer.Option(help="Added to both ends of an event.")] = 30.0,
    hop: Annotated[
        int | None,
        typer.Option(min=1, help="New samples in each frame, where the model's frames overlap."),
    ] = None,
    model_rate: Annotated[
        float | None,
        typer.Option(callback=_positive, help="Sample rate in Hz that the model hears."),
    ] = None,
    rate: Annotated[
        float | None,
        typer.Option(
            callback=_positive,
            help="Sample rate in Hz of raw samples; with a .npy file, makes it samples.",
        ),
    ] = None,
    encoding: Annotated[
        str,
        typer.Option(
            callback=_one_of(*ENCODINGS, "text"),
            help="Of raw samples and messages: s16le, f32le; text for messages.",
        ),
    ] = "s16le",
    channels: Annotated[int, typer.Option(min=1, help="Channels of raw samples.")] = 1,
    channel: Annotated[str, typer.Option(help="Which channel, from 0, or `mix`.")] = "mix",
    columns: Annotated[
        str | None, typer.Option(help="Columns of a table that are a frame: a,b,c.")
    ] = None,
    time_column: Annotated[
        str | None, typer.Option(help="Column of a table that is the time in seconds.")
    ] = None,
    frame_rate: Annotated[
        float | None,
        typer.Option(
            callback=_positive,
            help="Frames a second, where neither times nor samples say it; of tables and arrays 1.",
        ),
    ] = None,
    sensor_rate: Annotated[
        float | None,
        typer.Option(
            callback=_positive,
            help="Make frames at this rate of those that come at any times (interpolation).",
        ),
    ] = None,
    max_gap: Annotated[
        float | None,
        typer.Option(
            callback=_positive,
            help="Longest time in seconds without a frame that is bridged; with --sensor-rate 1.",
        ),
    ] = None,
    on_gap: Annotated[
        str,
        typer.Option(
            callback=_one_of(*ON_GAP),
            help="In a longer one: reset the model; with --sensor-rate also hold, interpolate, nan "
            "(frames of NaN, for a model that was trained with them), raise.",
        ),
    ] = "reset",
    beside: Annotated[
        list[str] | None,
        typer.Option(
            "--input",
            help="A model's input that does not come from SOURCE, as NAME=FILE.npy: one frame "
            "that never changes, or one for each frame of SOURCE.",
        ),
    ] = None,
    policy: Annotated[
        str,
        typer.Option(
            callback=_one_of(*POLICIES),
            help="When a live source is faster than the model, or the model than where outputs are "
            "sent: block or drop_oldest.",
        ),
    ] = "block",
    timeout: Annotated[
        float | None,
        typer.Option(
            callback=_positive, help="Seconds after which a silent live source has failed."
        ),
    ] = None,
    retries: Annotated[
        int,
        typer.Option(min=0, help="Attempts in a row to open a live source, or a peer, again."),
    ] = 10,
    engine: Annotated[
        str, typer.Option(callback=_one_of(*ENGINES), help="streamrnn or onnxruntime.")
    ] = "streamrnn",
    with_profile: Annotated[
        bool, typer.Option("--profile", help="Show what each op takes of a frame.")
    ] = False,
    plot: Annotated[Path | None, typer.Option(help="Draw outputs and latencies.")] = None,
    shape: Shapes = None,
    constant: Constants = None,
    state: States = None,
) -> None:
    """Run a model on a source, frame by frame as if live.

    Outputs go to stdout, a file or a peer; a meter, warnings and a summary to stderr. Exit code 0
    at the source's end, 1 if something cannot be opened or breaks off, 2 for wrong options, 130
    after Ctrl-C, 143 after SIGTERM; the summary comes in any case, and what was written so far is
    whole.
    """
    choices = Choices(
        rate, encoding, channels, _channel(channel),
        None if columns is None else [name.strip() for name in columns.split(",")],
        time_column, frame_rate, policy, timeout, retries, sensor_rate, max_gap, on_gap,
    )  # fmt: skip
    wishes = _Wishes(probs, events, as_json, out, plot, with_profile)
    rule = {"on": threshold, "min_on_ms": min_on_ms, "min_off_ms": min_off_ms, "pad_ms": pad_ms}
    with _blamed("--threshold, --min-on-ms, --min-off-ms, --pad-ms"):
        Hysteresis(1000.0, **rule)
    if frame_rate is not None and time_column is not None:
        raise typer.BadParameter("--time-column says the time", param_hint="--frame-rate")
    if on_gap != "reset" and sensor_rate is None:
        raise typer.BadParameter(f"{on_gap} needs --sensor-rate", param_hint="--on-gap")
    for read in (model, Path(source)):
        if out is not None and not _peer(out):
            check_other(Path(out), read)
    if with_profile and engine != "streamrnn":
        raise typer.BadParameter("only streamrnn's own ops can be timed", param_hint="--profile")
    if plot is not None:
        drawable(plot)
    with warnings_shown():
        on_nonfinite = "propagate" if on_gap == "nan" else "raise"
        loaded = load_model(model, reading(model, shape, constant, state), engine, on_nonfinite)
        for text in beside or ():
            if is_live(text.partition("=")[2]):
                raise typer.BadParameter(_TWO_CLOCKS.format(text), param_hint="--input")
        loaded.others = arrays_of("--input", beside)
        _announce(model, loaded)
        if with_profile and len(loaded.inputs) > 1:
            raise typer.BadParameter("only models with one input", param_hint="--profile")
        with _blamed("SOURCE"):
            raw = opened(source, choices, loaded)
        with raw:
            if raw.sample_rate_hz is not None:
                loaded.hear()
            if model_rate is not None:
                loaded.metadata = {**loaded.metadata, "sample_rate": model_rate}
            with _blamed():
                frames = framed(raw, source, choices, loaded, hop)
            _go(loaded, frames, wishes, rule, choices)


@contextmanager
def _blamed(option: str | None = None) -> Iterator[None]:
    """Make of an argument that has no meaning an option that has none: exit code 2."""
    try:
        yield
    except ConfigError as error:
        raise typer.BadParameter(str(error), param_hint=option) from None


@dataclass(frozen=True)
class _Wishes:
    """Which outputs were asked for."""

    probs: bool
    events: bool
    as_json: bool
    out: str | None
    plot: Path | None
    profile: bool


def _go(
    model: Loaded, source: Source, wishes: _Wishes, rule: dict[str, float], choices: Choices
) -> None:
    """Run, and say what came of it, however it ends."""
    console = Console(stderr=True, soft_wrap=True, highlight=False, markup=False, emoji=False)
    meter, code = Meter(), 0
    kept = Kept(source, PROFILED_FRAMES if wishes.profile else 0)
    recorded = Recorded()
    reset_after_s = choices.max_gap_s if choices.on_gap == "reset" else None
    if choices.sensor_rate_hz is not None and choices.on_gap == "reset":
        reset_after_s = choices.max_gap_s or 1.0
    try:
        with ended_by_signals() as ended, kept, ExitStack() as open_things:
            watch = open_things.enter_context(Watch(console))
            sinks = _sinks(model, source, wishes, rule, choices, meter, open_things)
            sinks += [recorded] if wishes.plot else []
            run_frames(model.stream, kept, sinks, meter, watch, reset_after_s)
    except KeyboardInterrupt:
        code = ended.code
    except BrokenPipeError:  # whoever read has enough
        _give_up_stdout()
    except (OSError, StreamrnnError) as error:  # a full disk, say
        console.print(str(error), style="red")
        code = 1
        if isinstance(error, OSError):
            _give_up_stdout()
    if not meter.frames and not code:
        console.print(f"{source.name}: gave no frame", style="red")
        code = 1
    try:
        _report(model, meter, kept, wishes, console)
    except BrokenPipeError:
        _give_up_stdout()
    if wishes.plot is not None and meter.outputs:
        draw(wishes.plot, recorded, model.columns, meter)
    raise typer.Exit(code)


def _give_up_stdout() -> None:
    """Let what is still to be printed vanish, so that nothing fails once more at the end."""
    with suppress(io.UnsupportedOperation):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


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
    model: Loaded, source: Source, wishes: _Wishes, rule: dict[str, float], choices: Choices,
    meter: Meter, open_things: ExitStack,
) -> list[Sink]:  # fmt: skip
    """Open where outputs go; on the way out what was opened last is closed first."""
    windows, columns = _windows(source), model.columns
    stride, rate_hz = model.stream.program.clock.stride, None
    if windows is not None:
        rate_hz = model.stream.program.output_size * windows.rate_hz / (stride * windows.hop)
    frame_hz = _frame_hz(source, windows, choices)

    def measured(frame_ms: float) -> Hysteresis:
        return Hysteresis(frame_ms, **rule)

    def events(file: Any, as_json: bool) -> EventSink:
        known = None if frame_hz is None else measured(1000 * stride / frame_hz)
        return EventSink(file, columns, known or measured, as_json)

    sinks: list[Sink] = []
    if wishes.out is not None and _peer(wishes.out):
        outbox = open_things.enter_context(_outbox(wishes.out, choices))
        meter.others.append(outbox)
        sinks.append(events(outbox, True) if wishes.events else JsonSink(outbox, columns))
    elif wishes.out is not None:
        with _blamed("--out"):
            sinks.append(sink_for(Path(wishes.out), model.output_shape, columns, rate_hz))
    if wishes.events:
        sinks.append(events(sys.stdout, wishes.as_json))
    if wishes.probs or not sinks:
        json_sink = JsonSink(sys.stdout, columns)
        sinks.append(json_sink if wishes.as_json else TextSink(sys.stdout))
    for sink in sinks:
        open_things.enter_context(sink)
    return sinks


def _frame_hz(source: Source, windows: Windows | None, choices: Choices) -> float | None:
    """Return frames a second, as samples or the user say it; None where times do."""
    if windows is not None:
        return windows.rate_hz / windows.hop
    if choices.sensor_rate_hz is not None:
        return choices.sensor_rate_hz
    if choices.frame_rate_hz is not None:
        return choices.frame_rate_hz
    inner: Source | None = source
    while inner is not None and not isinstance(inner, (Npy, Npz, Table)):
        inner = inner.source
    counted = inner is not None and getattr(inner, "time_column", None) is None
    return choices.rows_hz if counted else None


def _peer(out: str) -> bool:
    """Whether outputs go over a network."""
    return out.partition("://")[0] in ("mqtt", "ws", "wss")


def _outbox(out: str, choices: Choices) -> Outbox:
    """Connect to where outputs are sent."""
    if out.startswith("mqtt"):
        with _blamed("--out"):
            host, port, topic = mqtt_words(out)
        return Outbox(
            out, lambda: MqttSender(host, topic, port, choices.timeout_s), choices.policy,
            retries=choices.retries,
        )  # fmt: skip
    return Outbox(out, lambda: WebSocketSender(out), choices.policy, retries=choices.retries)


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


def _table(times: list[OpTime]) -> Columns:
    table = Columns(box=None, pad_edge=False, header_style="dim")
    for head in ("op", "kind"):
        table.add_column(head, overflow="fold")
    for head in ("µs a frame", "share"):
        table.add_column(head, justify="right")
    for t in times:
        table.add_row(t.name, t.op, f"{t.us:.2f}", f"{100 * t.share:.1f} %")
    return table
