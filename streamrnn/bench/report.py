"""What was measured, as tables, Markdown and JSON, beside what was expected."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from ..cli.options import finite
from . import ours, peers
from .expectations import Expectation, expectations
from .jitter import LATE_US, Endurance, Jitter
from .limits import Limits
from .models import Loading
from .row import Row
from .start import FirstOutput
from .timing import Effort

__all__ = ["Report", "table"]

BASE = (ours.POOL, ours.STEP, ours.BLOCK, ours.EACH)
"""What ratios are to: the first of these that a row has."""
KERNELS = (ours.KERNEL, ours.INT8_KERNEL, ours.BLOCK, ours.INT8_BLOCK, ours.POOL, ours.INT8_POOL)
COLUMNS = (
    ours.STEP, ours.KERNEL, ours.BLOCK, ours.POOL, ours.EACH, ours.INT8_STEP, ours.INT8_KERNEL,
    ours.INT8_BLOCK, ours.INT8_POOL, peers.BINDING, ours.ONNX_STREAM, peers.RUN, peers.INT8,
    peers.TORCH, peers.COMPILED, peers.OPENVINO, peers.TRACT, peers.NUMPY,
)  # fmt: skip
HEADS = {
    "steps": "One frame of one stream a call",
    "ops": "Layers without recurrence",
    "blocks": "Blocks of frames of one stream",
    "pools": "One frame of many streams a call",
    "models": "Real models, a step",
    "pooled models": "Real models, one frame of many streams a call",
}
BUSY = 0.5
"""Load of the machine before the run from which on figures are rough."""


@dataclass
class Report:
    """Everything of one run of the benchmark."""

    command: str
    date: str
    effort: Effort
    machine: dict[str, str]
    limits: Limits | None = None
    rows: list[Row] = field(default_factory=list)
    loading: list[Loading] = field(default_factory=list)
    first_outputs: list[FirstOutput] = field(default_factory=list)
    start: dict[str, float] = field(default_factory=dict)
    jitter: list[Jitter] = field(default_factory=list)
    endurance: list[Endurance] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)
    notes: dict[str, str] = field(default_factory=dict)
    unlike: dict[str, str] = field(default_factory=dict)
    interrupted: bool = False

    def share(self, row: Row, name: str) -> float | None:
        """Return which part of the limit a contender reaches: the least time divided by its own."""
        us, int8 = row.us(name), "int8" in name
        if us is None or self.limits is None:
            return None
        peak = self.limits.int8_gop_s if int8 or row.of_bytes else self.limits.gflop_s
        least = row.least_us(peak, int8)
        return None if least is None else least / us

    def expectations(self) -> list[Expectation]:
        """Return what was expected of all that was measured."""
        return expectations(self)

    # Tables ------------------------------------------------------------------------------------

    def limits_table(self) -> str:
        """Return what this core can do at most."""
        assert self.limits is not None
        body = [
            [f"reading from {level.name}", _bytes(level.bytes), f"{level.gb_s:.0f} GB/s"]
            for level in self.limits.levels
        ]
        body.append(["multiply-add, float32", "", f"{self.limits.gflop_s:.0f} GFLOP/s"])
        form = f"multiply-add, bytes ({self.limits.int8_form})"
        body.append([form, "", f"{self.limits.int8_gop_s:.0f} GOP/s"])
        body.append(["reading the clock twice", "", f"{self.limits.clock_ns:.0f} ns"])
        return table([["limits of a core", "size", "measured"], *body])

    def times_table(self, rows: Sequence[Row]) -> str:
        """Return medians of all contenders, and how many times ours the peers' are."""
        names = [name for name in COLUMNS if any(name in row.timings for row in rows)]
        body = []
        for row in rows:
            base, cells = _base(row), [row.label]
            for name in names:
                us = row.us(name)
                if us is None:
                    cells.append("")
                elif name.startswith("streamrnn") or base is None:
                    cells.append(_short(us))
                else:
                    cells.append(f"{_short(us)} ({_times(row.ratio(name, base))})")
            body.append(cells)
        return table([["µs a frame, median (÷ ours)", *names], *body])

    def shares_table(self, rows: Sequence[Row]) -> str:
        """Return how much of the machine our kernels use: bytes, operations, share of the limit."""
        names = [name for name in KERNELS if any(name in row.timings for row in rows)]
        heads, body = ["share of the limit", "weights", "in"], []
        for name in names:
            heads += [name.removeprefix("streamrnn "), "GB/s", "GFLOP/s"]
        for row in rows:
            assert self.limits is not None
            level = self.limits.level(row.weight_bytes).name
            cells = [row.label, _bytes(row.weight_bytes), level]
            for name in names:
                share, gb_s, gflop_s = self.share(row, name), row.gb_s(name), row.gflop_s(name)
                cells += ["" if share is None else f"{100 * share:.0f} %"]
                cells += ["" if v is None else f"{v:.0f}" for v in (gb_s, gflop_s)]
            body.append(cells)
        return table([heads, *body])

    def spread_table(self, rows: Sequence[Row]) -> str:
        """Return median, p99, p99.9 and maximum of a call of ours and of the fastest peer."""
        names = [n for n in (*BASE, peers.BINDING) if any(n in row.timings for row in rows)]
        body = []
        for row in rows:
            cells = [row.label]
            for name in names:
                t = row.timings.get(name)
                values = () if t is None else (t.median_us, t.p99_us, t.p999_us, t.max_us)
                cells.append(" / ".join("-" if v is None else _short(v) for v in values))
            body.append(cells)
        return table([["µs a frame: median / p99 / p99.9 / max", *names], *body])

    def loading_table(self) -> str:
        """Return how long models take to be read."""
        heads = ["ms, median", "load", "first stream", "onnxruntime session", "load ÷ session"]
        body = [
            [
                found.label,
                f"{found.load_ms:.1f}",
                f"{found.stream_ms:.1f}",
                f"{found.session_ms:.1f}",
                f"{found.load_ms / found.session_ms:.2f}",
            ]
            for found in self.loading
        ]
        return table([heads, *body])

    def first_outputs_table(self) -> str:
        """Return how long new processes take, from their start to the first output of a model."""
        heads = ["whole process, seconds", "empty cache of kernels, once", "full, median"]
        body = [[f.label, f"{f.cold_s:.1f}", f"{f.warm_s:.2f}"] for f in self.first_outputs]
        return table([heads, *body])

    def jitter_table(self) -> str:
        """Return the percentiles of a step, and of what it is compared with."""
        names = [f"p{p}" if p != "50" else "median" for p in self.jitter[0].percentiles_us]
        body = [
            [
                found.label,
                *(_short(v) for v in found.percentiles_us.values()),
                _short(found.max_us),
                f"{found.spread:.2f}",
                f"{found.late_per_s:.0f}",
                f"{found.switches}",
            ]
            for found in self.jitter
        ]
        steps = f"{self.jitter[0].steps:,} calls each, µs"
        late = f"{LATE_US:g} µs late, each second"
        return table([[steps, *names, "max", "p99.9 ÷ median", late, "core taken away"], *body])

    def endurance_table(self) -> str:
        """Return how time and memory went in a long run."""
        body = [
            [
                f"{look.frames:,}",
                f"{1000 * look.block_us:.1f}",
                f"{1000 * look.step_us:.0f}",
                f"{look.memory_kib / 1024:.2f}",
            ]
            for look in self.endurance
        ]
        heads = ["frames so far", "ns a frame in blocks", "ns a step from Python", "memory, MiB"]
        return table([heads, *body])

    # Whole -------------------------------------------------------------------------------------

    def results(self) -> str:
        """Return everything as Markdown that reads well as plain text."""
        parts = []
        if self.interrupted:
            parts.append("**Interrupted: this is what had been measured so far.**")
        if self.limits:
            parts.append(self.limits_table())
        for section, head in HEADS.items():
            rows = [row for row in self.rows if row.section == section]
            if rows:
                parts += [f"## {head}", self.times_table(rows)]
                if any(name in row.timings for row in rows for name in KERNELS):
                    parts.append(self.shares_table(rows))
                parts.append(self.spread_table(rows))
                notes = [f"- {row.label}: {self.notes[row.label]}." for row in rows
                         if row.label in self.notes]  # fmt: skip
                parts += ["\n".join(notes)] if notes else []
        if self.loading:
            parts += ["## Loading", self.loading_table()]
        if self.first_outputs:
            parts += ["## First output of a new process", self.first_outputs_table()]
        if self.start:
            body = [[stage, f"{seconds:.3f}"] for stage, seconds in self.start.items()]
            parts += ["## Start", table([["whole process", "seconds, median"], *body])]
        if self.jitter:
            parts += ["## Jitter", self.jitter_table(), self._jitter_words()]
        if self.endurance:
            parts += ["## Endurance", self.endurance_table(), self._endurance_words()]
        if self.expectations():
            parts += ["## Expectations", "\n".join(f"- {e}" for e in self.expectations())]
        parts += self._remarks()
        return "\n\n".join(parts) + "\n"

    def _jitter_words(self) -> str:
        nothing, step, python = self.jitter
        return (
            f"{step.label}: p99.9 is {step.spread:.2f} times the median. A step runs no other code "
            f"than its median does: no allocation, no lock, no garbage. What remains is the "
            f"machine's own: in each second spent in calls, {step.late_per_s:.0f} steps are "
            f"{LATE_US:g} µs late, {python.late_per_s:.0f} calls that count in Python and "
            f"{nothing.late_per_s:.0f} that do nothing. Those are interrupts and the hypervisor "
            f"(some 1 to 50 µs), and other processes, to which the core was given {step.switches} "
            f"times during the steps (milliseconds each). What lasts longer meets them more often, "
            f"and finds its caches colder afterwards."
        )

    def _endurance_words(self) -> str:
        first, last = self.endurance[0], self.endurance[-1]
        return (
            f"From the first look to the last: {last.block_us / first.block_us:.3f} times the time "
            f"of a frame in a block, {last.step_us / first.step_us:.3f} times that of a step from "
            f"Python, {last.memory_kib - first.memory_kib:+,} KiB of memory."
        )

    def _remarks(self) -> list[str]:
        found = [f"Skipped: {what}: {why}" for what, why in self.skipped.items()]
        if float(self.machine.get("load before", 0)) > BUSY:
            found.append("Something else was running: take these figures as rough.")
        same = [
            d
            for row in self.rows
            for name, d in row.differences.items()
            if "int8" not in name and row.label not in self.unlike
        ]
        if same:
            found.append(f"All contenders of a row gave the same outputs, within {max(same):.1g}.")
        bytes_ = [d for row in self.rows if row.section != "models"
                  for name, d in row.differences.items() if "int8" in name]  # fmt: skip
        if bytes_:
            found.append(f"Those with int8 weights differ from them by up to {max(bytes_):.1g}.")
        found += [f"{label}: its outputs are not compared. {why}."
                  for label, why in self.unlike.items()]  # fmt: skip
        return found

    def markdown(self) -> str:
        """Return the report as a page."""
        about = [f"- {what}: {value}" for what, value in self.machine.items()]
        about += [f"- date: {self.date}", f"- command: `{self.command}`"]
        return (
            "# Speed, side by side\n\n"
            "One process, one thread. Times are those of a frame of a stream: of a call, divided "
            "by its frames and streams. The *limit* is the least that a frame could take here: to "
            "read its weights once (measured beside it, as many bytes, by the same vectors), or to "
            "do its multiply-adds.\n\n" + "\n".join(about) + "\n\n" + self.results()
        )

    def as_json(self) -> str:
        """Return the report as JSON."""
        content: dict[str, Any] = {
            "command": self.command,
            "date": self.date,
            "interrupted": self.interrupted,
            "machine": self.machine,
            "effort": asdict(self.effort),
            "limits": asdict(self.limits) if self.limits else None,
            "rows": [
                asdict(row)
                | {
                    "shares": {n: self.share(row, n) for n in row.timings if "streamrnn" in n},
                    "gb_s": {n: row.gb_s(n) for n in row.timings},
                    "gflop_s": {n: row.gflop_s(n) for n in row.timings if "reading" not in n},
                }
                for row in self.rows
            ],
            "loading": [asdict(found) for found in self.loading],
            "first_outputs": [asdict(first) for first in self.first_outputs],
            "start_s": self.start,
            "jitter": [asdict(found) for found in self.jitter],
            "endurance": [asdict(look) for look in self.endurance],
            "skipped": self.skipped,
            "expectations": [asdict(e) | {"met": e.met} for e in self.expectations()],
        }
        return json.dumps(finite(content), indent=1, allow_nan=False, ensure_ascii=False) + "\n"


def _base(row: Row) -> str | None:
    return next((name for name in BASE if name in row.timings), None)


def _short(us: float) -> str:
    return f"{us:.2f}" if us < 9.995 else f"{us:.1f}" if us < 99.95 else f"{us:.0f}"


def _times(ratio: float | None) -> str:
    return "" if ratio is None else f"{ratio:.1f}x" if ratio < 99.95 else f"{ratio:.0f}x"


def _bytes(n: float) -> str:
    if not n:
        return ""
    return f"{n / (1 << 20):.1f} MiB" if n >= 1 << 20 else f"{n / 1024:.0f} KiB"


def table(rows: Sequence[Sequence[str]]) -> str:
    """Return an aligned Markdown table: first row the heads, first column to the left."""
    widths = [max(3, *map(len, column)) for column in zip(*rows, strict=True)]

    def line(cells: Iterable[str]) -> str:
        first, *rest = zip(cells, widths, strict=True)
        return " | ".join([f"| {first[0]:<{first[1]}}", *(f"{c:>{w}}" for c, w in rest)]) + " |"

    rule = ["-" * widths[0], *("-" * (w - 1) + ":" for w in widths[1:])]
    return "\n".join([line(rows[0]), line(rule), *map(line, rows[1:])])
