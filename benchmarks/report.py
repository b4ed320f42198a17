"""What was measured, as tables, JSON, a picture, and beside what was expected."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from .measure import STAGES, Effort, Timing
from .models import REASONS, UNLIKE, Loading
from .peers import BINDING, BLOCK, ONNX_STREAM, RUN, STEP, TORCH, Case, torch_or_none

__all__ = ["Expectation", "Report", "Row", "machine", "plot"]

CONTENDERS = [STEP, BLOCK, BINDING, ONNX_STREAM, RUN, TORCH]
SILERO = "Silero VAD, 32 ms frame"

AT_LEAST = {16: 5.0, 32: 5.0, 128: 2.0, 256: 1.4}
"""Times faster than io-binding that a step is expected to be, by hidden size."""
SILERO_AT_LEAST = 2.0
MODEL_AT_LEAST = 1.0
EXPLAINED_BELOW = 1.5
LOADING_BELOW = 2.0
START_AT_MOST_S = 1.0

LIBRARIES = ["numpy", "numba", "llvmlite", "onnx", "onnxruntime", "torch"]


@dataclass(frozen=True)
class Row:
    """The times of all contenders on one function.

    Parameters
    ----------
    label : str
        The function.
    case : Case or None
        Its sizes, if it is a stack of recurrent layers.
    timings : dict of str to Timing
        By the contender's name.
    difference : float
        Largest absolute difference between the outputs.
    """

    label: str
    case: Case | None
    timings: dict[str, Timing]
    difference: float

    def ratio(self, name: str) -> float:
        """Return how many times longer than our step another contender takes (medians)."""
        return self.timings[name].median_us / self.timings[STEP].median_us


@dataclass(frozen=True)
class Expectation:
    """One expectation, what was measured, and whether it was met (None: not measured)."""

    text: str
    measured: float | None
    met: bool | None


@dataclass
class Report:
    """Everything of one run of the benchmark."""

    command: str
    date: str
    effort: Effort
    machine: dict[str, str]
    rows: list[Row] = field(default_factory=list)
    models: list[Row] = field(default_factory=list)
    loading: list[Loading] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)
    start: dict[str, float] = field(default_factory=dict)

    def expectations(self) -> list[Expectation]:
        """Return what was expected of the rows that were measured or skipped."""
        found = []
        for row in self.rows:
            if row.case is not None and row.case.hidden_size in AT_LEAST:
                least = AT_LEAST[row.case.hidden_size]
                found.append(_at_least(str(row.case), row.ratio(BINDING), least, "io-binding"))
            elif row.case is None:
                fastest = min((BINDING, RUN), key=row.ratio)
                found.append(_at_least(row.label, row.ratio(fastest), SILERO_AT_LEAST, fastest))
        for row in self.models:
            fastest = min((BINDING, RUN), key=row.ratio)
            found.append(_at_least(row.label, row.ratio(fastest), MODEL_AT_LEAST, fastest))
        for read in self.loading:
            for what, ms in (
                ("load takes", read.load_ms),
                ("load and first stream take", read.load_ms + read.stream_ms),
            ):
                times = ms / read.session_ms
                text = (
                    f"{read.label}: {what} {times:.2f}x of onnxruntime's session, expected under "
                    f"{LOADING_BELOW:g}x: {_said(times < LOADING_BELOW)}"
                )
                found.append(Expectation(text, times, times < LOADING_BELOW))
        found += [
            Expectation(f"{label}: not measured, {reason}", None, None)
            for label, reason in self.skipped.items()
        ]
        if self.start:
            seconds = self.start[list(STAGES)[-1]]
            met = seconds < START_AT_MOST_S
            text = (
                f"cold start: {seconds:.2f} s, expected under {START_AT_MOST_S:g} s: {_said(met)}"
            )
            found.append(Expectation(text, seconds, met))
        return found

    def latency_table(self) -> str:
        """Return the rows, skipped ones too, as a table that is both aligned text and Markdown."""
        body = []
        for row in self.rows:
            cells = [row.label]
            for name in CONTENDERS:
                timing = row.timings.get(name)
                cells.append(_pair(timing) if timing else "")
                if name not in (STEP, BLOCK):
                    cells.append(f"{row.ratio(name):.1f}x" if timing else "")
            body.append(cells)
        width = 2 * len(CONTENDERS) - 1
        body += [[label, "skipped", *[""] * (width - 2)] for label in self.skipped]
        heads = ["µs per frame: median / p99"]
        for name in CONTENDERS:
            heads += [name] if name in (STEP, BLOCK) else [name, "ratio"]
        return table([heads, *body])

    def models_table(self) -> str:
        """Return the steps of real models as a table, and why a ratio is small."""
        peers = (BINDING, ONNX_STREAM, RUN)
        heads = ["µs per step: median / p99", STEP]
        heads += [head for name in peers for head in (name, "ratio")]
        body = []
        for row in self.models:
            cells = [row.label, _pair(row.timings[STEP])]
            for name in peers:
                cells += [_pair(row.timings[name]), f"{row.ratio(name):.1f}x"]
            body.append(cells)
        lines = [table([heads, *body]), ""]
        for row in self.models:
            least = min(row.ratio(BINDING), row.ratio(RUN))
            if least < EXPLAINED_BELOW:
                why = REASONS.get(row.label, "not explained")
                lines.append(f"- {row.label}, {least:.2f}x: {why}.")
        return "\n".join(lines)

    def loading_table(self) -> str:
        """Return how long real models take to be read, as a table."""
        heads = ["ms, median", "load", "first stream", "onnxruntime session", "load / session",
                 "both / session"]  # fmt: skip
        body = [
            [
                found.label,
                f"{found.load_ms:.1f}",
                f"{found.stream_ms:.1f}",
                f"{found.session_ms:.1f}",
                f"{found.load_ms / found.session_ms:.2f}",
                f"{(found.load_ms + found.stream_ms) / found.session_ms:.2f}",
            ]
            for found in self.loading
        ]
        return table([heads, *body])

    def start_table(self) -> str:
        """Return the stages of the cold start as a table."""
        body = [[stage, f"{seconds:.3f}"] for stage, seconds in self.start.items()]
        return table([["whole process", "seconds, median"], *body])

    def results(self) -> str:
        """Return tables and expectations as Markdown that reads well as plain text."""
        parts = [self.latency_table()] if self.rows or self.skipped else []
        parts += [self.models_table()] if self.models else []
        parts += [self.loading_table()] if self.loading else []
        parts += [self.start_table()] if self.start else []
        parts.append(
            "\n".join(["Expectations:", "", *(f"- {e.text}" for e in self.expectations())])
        )
        notes = []
        if torch_or_none() is None:
            notes.append("torch is not installed: its column is blank.")
        if float(self.machine.get("load before", 0)) > 0.5:
            notes.append("Something else was running: take these figures as rough.")
        if self.rows or self.models:
            apart = {row.label: row.difference for row in (*self.rows, *self.models)}
            worst = max((d for label, d in apart.items() if label not in UNLIKE), default=0.0)
            notes.append(f"All contenders of a row gave the same outputs, within {worst:.1g}.")
            notes += [
                f"{label}: excepted, its outputs differ by up to {apart[label]:.1g}. {why}."
                for label, why in UNLIKE.items()
                if label in apart
            ]
        return "\n\n".join(parts + notes) + "\n"

    def markdown(self) -> str:
        """Return the report as a page."""
        about = [f"- {what}: {value}" for what, value in self.machine.items()]
        about += [f"- date: {self.date}", f"- command: `{self.command}`"]
        return (
            "# Latency of one step\n\n"
            "One process, one thread, float32, one stream, one frame per call. A ratio says how "
            "many times longer than a step of streamrnn the other one takes (medians).\n\n"
            + "\n".join(about)
            + "\n\n"
            + self.results()
        )

    def as_json(self) -> str:
        """Return the report as JSON."""
        rows = [
            asdict(row)
            | {"ratios": {name: row.ratio(name) for name in row.timings if name != STEP}}
            for row in self.rows
        ]
        content: dict[str, Any] = {
            "command": self.command,
            "date": self.date,
            "machine": self.machine,
            "effort": asdict(self.effort),
            "latency": rows,
            "models": [asdict(row) for row in self.models],
            "loading": [asdict(found) for found in self.loading],
            "skipped": self.skipped,
            "cold_start_s": self.start,
            "expectations": [asdict(e) for e in self.expectations()],
        }
        return json.dumps(content, indent=2, allow_nan=False, ensure_ascii=False) + "\n"


def _at_least(label: str, ratio: float, least: float, peer: str) -> Expectation:
    met = ratio >= least
    text = f"{label}: {ratio:.2f}x of {peer}, expected {least:g}x: {_said(met)}"
    return Expectation(text, ratio, met)


def _said(met: bool) -> str:
    return "met" if met else "NOT met"


def _pair(timing: Timing) -> str:
    return f"{_short(timing.median_us)} / {_short(timing.p99_us)}"


def _short(us: float) -> str:
    return f"{us:.2f}" if us < 9.995 else f"{us:.1f}" if us < 99.95 else f"{us:.0f}"


def table(rows: Sequence[Sequence[str]]) -> str:
    """Return an aligned Markdown table: first row the heads, first column to the left."""
    widths = [max(3, *map(len, column)) for column in zip(*rows, strict=True)]

    def line(cells: Iterable[str]) -> str:
        first, *rest = zip(cells, widths, strict=True)
        return " | ".join([f"| {first[0]:<{first[1]}}", *(f"{c:>{w}}" for c, w in rest)]) + " |"

    rule = ["-" * widths[0], *("-" * (w - 1) + ":" for w in widths[1:])]
    return "\n".join([line(rows[0]), line(rule), *map(line, rows[1:])])


def machine() -> dict[str, str]:
    """Return what the figures depend on: processor, system, versions, and how busy it was."""
    import streamrnn

    found = {
        "CPU": f"{_cpu_name()}, {os.cpu_count()} cores",
        "OS": f"{_system_name()}, {platform.machine()}",
        "Python": platform.python_version(),
        "streamrnn": streamrnn.__version__,
    }
    for library in LIBRARIES:
        try:
            found[library] = importlib.metadata.version(library)
        except importlib.metadata.PackageNotFoundError:
            found[library] = "not installed"
    if hasattr(os, "getloadavg"):
        found["load before"] = f"{os.getloadavg()[0]:.2f}"
    return found


def _cpu_name() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _system_name() -> str:
    try:
        return platform.freedesktop_os_release()["PRETTY_NAME"]
    except (OSError, KeyError):
        return f"{platform.system()} {platform.release()}"


def plot(report: Report, path: Path) -> bool:
    """Draw hidden size against microseconds, a panel for each kind of cell; p99 as a faint line.

    Returns
    -------
    bool
        Whether there was something to draw and matplotlib to draw it with.
    """
    rows = [row for row in report.rows if row.case is not None and row.case.num_layers == 1]
    kinds = list(dict.fromkeys(row.case.kind for row in rows if row.case is not None))
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return False
    if not kinds:
        return False
    figure = Figure(figsize=(1 + 4 * len(kinds), 4.5), layout="constrained")
    panels = figure.subplots(1, len(kinds), sharey=True, squeeze=False)[0]
    for kind, panel in zip(kinds, panels, strict=True):
        _draw(panel, [row for row in rows if row.case is not None and row.case.kind == kind])
        panel.set_title(kind)
    panels[0].set_ylabel("µs per step: median, and p99 (faint)")
    panels[-1].legend(fontsize="small")
    figure.suptitle(f"One step, one thread: {report.machine['CPU']}", fontsize="medium")
    figure.savefig(path, dpi=120)
    return True


def _draw(panel: Any, rows: Sequence[Row]) -> None:
    for colour, name in enumerate(CONTENDERS):
        points = [
            (row.case.hidden_size, row.timings[name])
            for row in rows
            if row.case is not None and name in row.timings
        ]
        if not points:
            continue
        sizes = [size for size, _ in points]
        style = {"color": f"C{colour}", "linestyle": "--" if name == BLOCK else "-"}
        panel.plot(sizes, [t.median_us for _, t in points], marker="o", ms=3, label=name, **style)
        panel.plot(sizes, [t.p99_us for _, t in points], alpha=0.3, lw=1, **style)
    sizes = sorted({row.case.hidden_size for row in rows if row.case is not None})
    panel.set_xscale("log", base=2)
    panel.set_yscale("log")
    panel.set_xticks(sizes, [str(size) for size in sizes])
    panel.set_xlabel("hidden size H")
    panel.grid(alpha=0.3)
