"""What is expected of the figures, and whether it was met."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from . import ours, peers
from .row import Row
from .start import STAGES

if TYPE_CHECKING:
    from .report import Report

__all__ = ["Expectation", "expectations"]

SHARE_AT_LEAST, SHARE_FROM_SIZE = 0.9, 64
KERNEL_AT_MOST_US = {16: 1.2 * 0.12, 32: 1.2 * 0.25}
"""LSTM with 16 inputs: 1.2 times what C++ with sizes fixed at compile time takes."""
CALL_AT_MOST_US = 0.7
BINDING_AT_LEAST = {8: 6.0, 16: 6.0, 32: 6.0, 128: 2.2, 256: 1.5, 512: 1.5, 1024: 1.5}
"""Times as fast as io-binding that a step is expected to be, by hidden size."""
RUN_AT_LEAST, RUN_UP_TO_SIZE = 10.0, 32
INT8_AT_LEAST, INT8_FROM_SIZE = 4.0, 256
INT8_PEER_AT_LEAST = 5.0
POOL_AT_MOST, INT8_POOL_AT_MOST = 0.8, 0.35
SILERO, SILERO_AT_LEAST, SILERO_FRAME_US, CORES = "Silero VAD, vad", 4.0, 32_000, 2
SILERO_STREAMS = {ours.POOL: 2000, ours.INT8_POOL: 5000}
IN_L2_AT_LEAST, LARGER_AT_LEAST, LARGER_INT8_AT_LEAST = 2.0, 1.2, 3.0
SPREAD_AT_MOST = 2.0
LOADING_BELOW = 2.0
START_AT_MOST_S, COLD_START_AT_MOST_S = 0.6, 10.0


@dataclass(frozen=True)
class Expectation:
    """One expectation: what was measured, beside what was expected of it."""

    what: str
    measured: float
    expected: float
    at_least: bool
    unit: str = "x"

    @property
    def met(self) -> bool:
        """Whether it is so."""
        if self.at_least:
            return self.measured >= self.expected
        return self.measured <= self.expected

    def __str__(self) -> str:
        bound = "at least" if self.at_least else "at most"
        return (
            f"{self.what}: {self.measured:.3g}{self.unit}, expected {bound} "
            f"{self.expected:g}{self.unit}: {'met' if self.met else 'NOT met'}"
        )


def _ratio(row: Row, name: str, own: str, least: float, what: str = "") -> Iterator[Expectation]:
    ratio = row.ratio(name, own)
    if ratio is not None:
        yield Expectation(f"{row.label}: {what or f'{name} ÷ {own}'}", ratio, least, True)


def expectations(report: Report) -> list[Expectation]:
    """Return what was expected of all that was measured."""
    found: list[Expectation] = []
    for row in report.rows:
        if row.section in ("steps", "ops"):
            found += _of_step(row, report)
        elif row.section == "pools":
            found += _of_pool(row)
        elif row.section == "models":
            found += _of_model(row, report)
        elif row.section == "pooled models":
            found += _of_streams(row)
    for read in report.loading:
        times = read.load_ms / read.session_ms
        what = f"{read.label}: loading ÷ onnxruntime's session"
        found.append(Expectation(what, times, LOADING_BELOW, False))
    if report.first_outputs:
        found += _of_first_outputs(report)
    if report.start:
        seconds = report.start[list(STAGES)[-1]]
        found.append(
            Expectation("a new process, first output", seconds, START_AT_MOST_S, False, " s")
        )
    for measured in report.jitter[1:2]:
        what = f"{measured.label}: p99.9 ÷ median over {measured.steps:,} steps"
        found.append(Expectation(what, measured.spread, SPREAD_AT_MOST, False))
    return found


def _of_first_outputs(report: Report) -> Iterator[Expectation]:
    """Yield what is expected of the slowest model."""
    cold = max(report.first_outputs, key=lambda first: first.cold_s)
    warm = max(report.first_outputs, key=lambda first: first.warm_s)
    what = "first output of a new process, the slowest"
    for kernels, slowest, seconds, most in (
        ("an empty cache of kernels", cold, cold.cold_s, COLD_START_AT_MOST_S),
        ("a full one", warm, warm.warm_s, START_AT_MOST_S),
    ):
        yield Expectation(f"{what} with {kernels} ({slowest.label})", seconds, most, False, " s")


def _of_step(row: Row, report: Report) -> Iterator[Expectation]:
    case = row.case
    assert case is not None
    kernel, step, H = row.us(ours.KERNEL), row.us(ours.STEP), case.hidden_size
    share = report.share(row, ours.KERNEL)
    if share is not None and H >= SHARE_FROM_SIZE:
        what = f"{row.label}: share of the limit, kernel"
        yield Expectation(what, 100 * share, 100 * SHARE_AT_LEAST, True, " %")
    if row.section == "ops":
        return
    if kernel and case.kind == "LSTM" and case.num_layers == 1 and H in KERNEL_AT_MOST_US:
        yield Expectation(f"{row.label}: kernel", kernel, KERNEL_AT_MOST_US[H], False, " µs")
    if kernel and step and case.num_layers == 1 and H <= SHARE_FROM_SIZE:
        what = f"{row.label}: step called from Python, above the kernel"
        yield Expectation(what, step - kernel, CALL_AT_MOST_US, False, " µs")
    if H in BINDING_AT_LEAST:
        yield from _ratio(row, peers.BINDING, ours.STEP, BINDING_AT_LEAST[H])
    if H <= RUN_UP_TO_SIZE:
        yield from _ratio(row, peers.RUN, ours.STEP, RUN_AT_LEAST)
    if H >= INT8_FROM_SIZE:
        yield from _ratio(row, ours.KERNEL, ours.INT8_KERNEL, INT8_AT_LEAST)
    if case.kind == "LSTM" and H == INT8_FROM_SIZE:
        yield from _ratio(row, peers.INT8, ours.INT8_STEP, INT8_PEER_AT_LEAST)


def _of_pool(row: Row) -> Iterator[Expectation]:
    case = row.case
    if case is None or (case.kind, case.hidden_size, case.batch) != ("LSTM", 128, 64):
        return
    for name, most in ((ours.POOL, POOL_AT_MOST), (ours.INT8_POOL, INT8_POOL_AT_MOST)):
        ratio = row.ratio(name, peers.BINDING)
        if ratio is not None:
            what = f"{row.label}: {name} ÷ {peers.BINDING}"
            yield Expectation(what, ratio, most, False)


def _of_model(row: Row, report: Report) -> Iterator[Expectation]:
    if not (row.us(peers.BINDING) and row.us(peers.RUN)):
        return
    fastest = min((peers.BINDING, peers.RUN), key=lambda name: row.us(name) or 0.0)
    if row.label.startswith("Silero"):
        yield from _ratio(row, fastest, ours.STEP, SILERO_AT_LEAST)
        return
    assert report.limits is not None
    l2_bytes = next((v.bytes for v in report.limits.levels if v.name == "L2"), 0)
    if row.weight_bytes <= l2_bytes:
        yield from _ratio(row, fastest, ours.STEP, IN_L2_AT_LEAST)
        return
    yield from _ratio(row, fastest, ours.STEP, LARGER_AT_LEAST)
    yield from _ratio(row, fastest, ours.INT8_STEP, LARGER_INT8_AT_LEAST)


def _of_streams(row: Row) -> Iterator[Expectation]:
    for name, least in SILERO_STREAMS.items():
        us = row.us(name)
        if us:
            what = f"{row.label}: {name}, streams in real time on {CORES} cores (computed)"
            yield Expectation(what, CORES * SILERO_FRAME_US / us, least, True, "")
