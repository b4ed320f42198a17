"""What the examples share: the command around them, and how long a frame takes."""

from __future__ import annotations

import argparse
import contextlib
import importlib
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

import assets
import streamrnn as sr
from streamrnn.live import Latencies

__all__ = [
    "INSTALL",
    "Arguments",
    "InputError",
    "arguments",
    "described",
    "export",
    "figure",
    "film",
    "main",
    "number",
    "ready",
    "run",
    "save",
    "timed",
]

INSTALL = 'pip install "streamrnn[examples,torch]"'

Arguments = argparse.Namespace
"""What the command line said; `out` is a folder that exists."""


class InputError(Exception):
    """Something that the user gave cannot be used; the message is one sentence."""


def arguments(text: str | None, trains: bool = False) -> argparse.ArgumentParser:
    """Return a parser of the options that all have.

    Parameters
    ----------
    text : str
        What the example does.
    trains : bool
        Whether it trains a network.
    """
    parser = argparse.ArgumentParser(description=text)
    add = parser.add_argument
    add("--out", type=Path, metavar="DIR", default=Path("demo"), help="for results (default: demo)")
    if trains:
        add("--quick", action="store_true", help="train for a few seconds only")
        number(parser, "--seed", 0, 0, 2**32 - 1, "of the training")
    return parser


def number(
    parser: argparse.ArgumentParser, name: str, default: int, low: int, high: int, what: str
) -> None:
    """Add an option that takes a whole number from `low` to `high`."""

    def checked(text: str) -> int:
        with contextlib.suppress(ValueError):
            if low <= int(text) <= high:
                return int(text)
        raise argparse.ArgumentTypeError(f"must be from {low} to {high}, got {text!r}")

    said = f"{what}, default {default}"
    parser.add_argument(name, type=checked, default=default, metavar="N", help=said)


def run(work: Callable[[Arguments], None], args: Arguments) -> int:
    """Do the work and return the exit code: 0, 2 where something is amiss, 130 if interrupted."""
    name = Path(sys.modules[work.__module__].__file__ or "").name
    try:
        for needed in ("matplotlib", "onnxruntime"):  # say it now, not after the training
            importlib.import_module(needed)
        try:
            args.out.mkdir(parents=True, exist_ok=True)
            tempfile.TemporaryFile(dir=args.out).close()
        except OSError as error:
            raise InputError(f"{args.out}: cannot write results there: {error.strerror}") from None
        work(args)
    except KeyboardInterrupt:
        print(f"{name}: interrupted", file=sys.stderr)
        return 130
    except ImportError as error:
        print(f"{name}: {error}: {INSTALL}", file=sys.stderr)
        return 2
    except (InputError, assets.AssetError, sr.StreamrnnError, OSError) as error:
        print(f"{name}: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    return 0


def ready(model: sr.Layer) -> sr.Stream:
    """Return a stream that has taken a step: the first time, kernels are compiled."""
    print("Preparing the model; the first time, its kernels are compiled …", flush=True)
    stream = model.stream()
    (frame,) = model.graph().inputs.values()
    stream.step(np.zeros(frame.shape, np.float32))
    stream.reset()
    return stream


def main(
    work: Callable[[Arguments], None], text: str | None, trains: bool = False
) -> Callable[..., int]:
    """Return a command with the options that all have: from arguments to the exit code of `run`."""

    def command(argv: list[str] | None = None) -> int:
        return run(work, arguments(text, trains).parse_args(argv))

    return command


def timed(stream: sr.Stream, frames: Iterable[Any], taken: Latencies) -> Iterator[Any]:
    """Yield what comes out of a stream for each frame, None where nothing is due.

    Parameters
    ----------
    stream : Stream
        What takes the frames.
    frames : iterable of arrays
        Each of the shape of the model's input.
    taken : Latencies
        Is told what each step took.
    """
    for frame in frames:
        before_ns = time.perf_counter_ns()
        y = stream.step(frame)
        taken.add(time.perf_counter_ns() - before_ns)
        yield y


def described(taken: Latencies, frame_s: float) -> str:
    """Return the latency in words, and how it compares with the time that a frame lasts."""
    _, counts = taken.classes()
    factor = taken.total_ns / 1e9 / (int(counts.sum()) * frame_s)
    p50, p99 = taken.quantile_us(0.5), taken.quantile_us(0.99)
    return f"median {p50:.1f} µs, p99 {p99:.1f} µs (real-time factor {factor:.2g})"


def figure(rows: int, **options: Any) -> tuple[Any, Any]:
    """Return a picture and its axes below each other; options are those of ``subplots``."""
    from matplotlib.figure import Figure

    picture = Figure(figsize=(12, 3 * rows), layout="constrained")
    return picture, picture.subplots(rows, **options)


def save(picture: Any, path: Path) -> None:
    """Write a picture into a PNG file."""
    picture.savefig(path, dpi=100)
    print(f"Picture: {path}")


def film(path: Path, pictures: Any, rate_hz: int) -> None:
    """Write grey pictures, float32 [shape=(T, height, width)] in [0, 1], into a video file."""
    import av

    with av.open(str(path), "w") as file:
        track: Any = file.add_stream("mpeg4", rate_hz)
        track.height, track.width = pictures.shape[1:]
        for picture in np.uint8(255 * pictures):
            file.mux(track.encode(av.VideoFrame.from_ndarray(picture, "gray")))
        file.mux(track.encode())
    print(f"Video: {path}")


def export(model: sr.Layer, path: Path, frames: Any) -> None:
    """Write a model to an ONNX file, run it in onnxruntime beside the stream, print the report.

    Parameters
    ----------
    model : Layer
        What is exported.
    path : Path
        The file to write.
    frames : float32 [shape=(T, *frame shape)]
        What both run over.
    """
    from streamrnn.export import to_onnx

    print(to_onnx(model, path, frames=frames))
