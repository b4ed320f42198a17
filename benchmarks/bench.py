"""Latency of one step beside onnxruntime and torch, and the time of a cold start.

Every row compares the same function, which is checked before anything is timed: the peers run the
weights of our layer. All of them take turns in one process, on one thread. See README.md beside
this file for how to read the figures.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import shlex
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.progress import Progress

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import measure, models, peers, report
from benchmarks.measure import FULL, QUICK, DisagreementError, Effort
from benchmarks.peers import Case
from benchmarks.report import SILERO, Report, Row

SECTIONS = ["lstm", "gru", "rnn", "silero", "models", "start"]
SIZES = [
    (16, 16, 1),
    (16, 32, 1),
    (40, 64, 1),
    (40, 128, 1),
    (40, 256, 1),
    (80, 512, 1),
    (40, 256, 3),
]
"""Input size, hidden size, layers."""
FOLDER = Path(__file__).resolve().parent


def arguments(argv: Sequence[str]) -> argparse.Namespace:
    """Return the parsed command line."""
    parser = argparse.ArgumentParser(
        prog="bench.py",
        description=__doc__,
        epilog="Speed never fails: the exit code is 0 whatever was measured, and 1 only if the "
        "contenders disagree about the outputs.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--quick", action="store_true", help="fewer steps: about 20 seconds, and noisier p99"
    )
    parser.add_argument(
        "--only", nargs="+", choices=SECTIONS, default=SECTIONS, metavar="SECTION",
        help=f"measure only these of: {', '.join(SECTIONS)}",
    )  # fmt: skip
    parser.add_argument(
        "--out", type=Path, default=FOLDER / "results", metavar="DIR",
        help="folder for latency.json, latency.md and latency.png (default: benchmarks/results)",
    )  # fmt: skip
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the JSON to this file too")
    return parser.parse_args(argv)


@contextlib.contextmanager
def announced(label: str, rounds: int) -> Iterator[Callable[[], None]]:
    """Show on the standard error what is being measured; give what to call after each round.

    On a terminal it is a bar, drawn between the rounds only: a thread that draws would disturb
    what is measured. Elsewhere it is a line.
    """
    console = Console(stderr=True)
    if not console.is_terminal:
        print(label, file=sys.stderr, flush=True)
        yield lambda: None
        return
    with Progress(console=console, auto_refresh=False, transient=True) as bar:
        task = bar.add_task(label, total=rounds)
        yield lambda: bar.update(task, advance=1, refresh=True)


def recurrent_row(case: Case, effort: Effort, tick: Callable[[], None]) -> Row:
    """Measure one stack of recurrent layers on random frames."""
    frames = np.random.default_rng(0).standard_normal((64, case.input_size)).astype(np.float32)
    x = np.zeros(case.input_size, np.float32)
    contenders = peers.recurrent(case, x)
    difference = measure.check_agreement(contenders, x, frames)
    return Row(
        str(case), case, measure.interleaved(contenders, x, frames, effort, tick), difference
    )


def silero_row(effort: Effort, tick: Callable[[], None]) -> Row:
    """Measure Silero VAD on a recording of speech; the model and the files are the examples'."""
    sys.path.insert(0, str(FOLDER.parent / "examples"))
    import soundfile

    from assets import silero_onnx, speech_wav
    from silero import build

    path = silero_onnx()
    sound, rate_hz = soundfile.read(speech_wav(), dtype="float32", always_2d=True)
    if rate_hz != 16000:
        raise ValueError(f"the recording is at {rate_hz} Hz, expected 16000 Hz")
    frames = sound[: len(sound) // 512 * 512, 0].reshape(-1, 512)
    x = np.zeros(512, np.float32)
    contenders = peers.silero(build(path), path, x)
    difference = measure.check_agreement(contenders, x, frames[:200])
    timings = measure.interleaved(contenders, x, frames, effort, tick)
    return Row(SILERO, None, timings, difference)


def measure_all(sections: Sequence[str], effort: Effort, found: Report) -> None:
    """Measure the sections and put the results into the report."""
    kinds = [section.upper() for section in SECTIONS[:3] if section in sections]
    cases = [Case(kind, *size) for kind in kinds for size in SIZES]
    with peers.torch_inference():
        for case in cases:
            with announced(str(case), effort.rounds) as tick:
                found.rows.append(recurrent_row(case, effort, tick))
        if "silero" in sections:
            with announced(SILERO, effort.rounds) as tick:
                try:
                    found.rows.append(silero_row(effort, tick))
                except DisagreementError:
                    raise
                except Exception as error:  # no network, no soundfile, …: the rest still counts
                    found.skipped[SILERO] = f"{type(error).__name__}: {error}"
    if "models" in sections:
        measure_models(effort, found)
    if "start" in sections:
        with announced("cold start", 1 + effort.starts) as tick:
            found.start = measure.cold_start(effort, tick)


def measure_models(effort: Effort, found: Report) -> None:
    """Measure real models: a step of each, and how long they take to load."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            real = models.real_models(Path(folder))
        except Exception as error:  # no network, a test library that is missing, …
            found.skipped["real models"] = f"{type(error).__name__}: {error}"
            return
        for model in real:
            with announced(model.label, effort.rounds) as tick:
                timings, difference = models.step(model, effort, tick)
                found.models.append(Row(model.label, None, timings, difference))
        with announced("loading", 1) as tick:
            found.loading = models.loading(real, max(5, effort.rounds))


def write(found: Report, folder: Path, json_copy: Path | None) -> None:
    """Write the report's files and say where they are."""
    folder.mkdir(parents=True, exist_ok=True)
    written = [folder / "latency.json", *([json_copy] if json_copy else [])]
    for path in written:
        path.write_text(found.as_json(), encoding="utf-8")
    written.append(folder / "latency.md")
    written[-1].write_text(found.markdown(), encoding="utf-8")
    picture = folder / "latency.png"
    if report.plot(found, picture):
        written.append(picture)
    print("Written:", ", ".join(map(str, written)))


def main(argv: Sequence[str]) -> int:
    """Run the benchmark; return the exit code."""
    options = arguments(argv)
    effort = QUICK if options.quick else FULL
    found = Report(
        command=shlex.join(["python", "benchmarks/bench.py", *argv]),
        date=datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        effort=effort,
        machine=report.machine(),
    )
    for what, value in found.machine.items():
        print(f"{what}: {value}")
    try:
        measure_all(options.only, effort, found)
    except DisagreementError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print()
    print(found.results())
    write(found, options.out, options.json)
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
