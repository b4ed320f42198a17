"""The report in pictures; without matplotlib there are none."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from . import ours, peers
from .libraries import library
from .report import COLUMNS, Report
from .row import READ, Row

__all__ = ["draw"]

COLOURS = {name: f"C{i % 10}" for i, name in enumerate(COLUMNS)} | {
    ours.STEP: "C3",
    ours.KERNEL: "C3",
    ours.POOL: "C3",
    ours.BLOCK: "C3",
    ours.EACH: "C6",
    ours.INT8_STEP: "C4",
    ours.INT8_KERNEL: "C4",
    ours.INT8_POOL: "C4",
    peers.BINDING: "C0",
    peers.RUN: "C0",
    peers.INT8: "C9",
    peers.TORCH: "C1",
    peers.COMPILED: "C1",
    peers.OPENVINO: "C2",
    peers.TRACT: "C5",
    ours.ONNX_STREAM: "C8",
    peers.NUMPY: "C7",
}
PAPER = {"facecolor": "white", "alpha": 0.8, "linewidth": 0, "pad": 0.5}
"""Behind a text that stands on lines."""
DASHED = (ours.KERNEL, ours.INT8_KERNEL, peers.RUN, peers.COMPILED)
DPI = 110


def draw(report: Report, out: Path) -> list[Path]:
    """Draw what was measured: times, shares of the limit, pools, jitter, endurance.

    Parameters
    ----------
    report : Report
        What was measured.
    out : Path
        Pictures are called ``OUT_*.png``.

    Returns
    -------
    list of Path
        The pictures; none where matplotlib is missing.
    """
    matplotlib = library("matplotlib.figure")
    if matplotlib is None:
        return []
    drawn: list[Path] = []
    pictures: dict[str, Callable[[Report, Any], bool]] = {
        "steps": _steps,
        "limit": _limit,
        "pools": _pools,
        "jitter": _jitter,
        "endurance": _endurance,
    }
    for name, fill in pictures.items():
        figure = matplotlib.Figure(layout="constrained")
        if fill(report, figure):
            drawn.append(out.with_name(f"{out.name}_{name}.png"))
            figure.savefig(drawn[-1], dpi=DPI)
    return drawn


def _single(report: Report) -> list[Row]:
    """Return the steps of single layers."""
    rows = [row for row in report.rows if row.section == "steps"]
    return [row for row in rows if row.case is not None and row.case.num_layers == 1]


def _panels(figure: Any, kinds: Sequence[str], **options: Any) -> list[Any]:
    figure.set_size_inches(1.5 + 3.8 * len(kinds), 5.2)
    panels = list(figure.subplots(1, len(kinds), squeeze=False, **options)[0])
    for kind, panel in zip(kinds, panels, strict=True):
        panel.set_title(kind)
        panel.grid(alpha=0.25)
    return panels


def _by_kind(rows: Sequence[Row]) -> dict[str, list[Row]]:
    found: dict[str, list[Row]] = {}
    for row in rows:
        if row.case is not None:
            found.setdefault(row.case.kind, []).append(row)
    return found


def _line(panel: Any, name: str, xs: Sequence[float], ys: Sequence[float]) -> None:
    panel.plot(
        xs, ys, label=name, color=COLOURS.get(name), marker="o", ms=3,
        lw=2.2 if name.startswith("streamrnn") else 1.2, ls="--" if name in DASHED else "-",
    )  # fmt: skip


def _sizes(panel: Any, sizes: Sequence[int], label: str) -> None:
    panel.set_xscale("log", base=2)
    panel.set_xticks(list(sizes), [str(size) for size in sizes], fontsize="small")
    panel.minorticks_off()
    panel.set_xlabel(label)


def _legend(figure: Any, panels: Sequence[Any]) -> None:
    """Put one legend under all panels."""
    entries: dict[str, Any] = {}
    for panel in panels:
        for handle, label in zip(*panel.get_legend_handles_labels(), strict=True):
            entries.setdefault(label, handle)
    figure.legend(
        list(entries.values()), list(entries), loc="outside lower center",
        ncols=2 if len(panels) == 1 else 5, fontsize="small", frameon=False,
    )  # fmt: skip


def _steps(report: Report, figure: Any) -> bool:
    kinds = _by_kind(_single(report))
    if not kinds:
        return False
    panels = _panels(figure, list(kinds), sharey=True)
    for panel, rows in zip(panels, kinds.values(), strict=True):
        for name in COLUMNS:
            points = [(row.case.hidden_size, row.us(name)) for row in rows if row.case]
            there = [(x, y) for x, y in points if y]
            if there:
                _line(panel, name, [x for x, _ in there], [y for _, y in there])
        panel.set_yscale("log")
        _sizes(panel, sorted({row.case.hidden_size for row in rows if row.case}), "hidden size H")
    panels[0].set_ylabel("µs a step, median")
    _legend(figure, panels)
    figure.suptitle(f"One frame of one stream, one thread: {report.machine['CPU']}")
    return True


def _limit(report: Report, figure: Any) -> bool:
    """Weights read in a second by the kernels, beside a loop that only reads."""
    kinds = _by_kind(_single(report))
    if not kinds or report.limits is None:
        return False
    panels = _panels(figure, list(kinds), sharey=True)
    for panel, rows in zip(panels, kinds.values(), strict=True):
        sizes = [row.case.hidden_size for row in rows if row.case]
        limit = [row.bytes_per_frame / (row.us(READ) or 1) / 1e3 for row in rows]
        panel.plot(sizes, limit, color="0.3", lw=1.2, ls=":", marker="o", ms=3, label=READ)
        for name in (ours.KERNEL, ours.STEP, peers.BINDING, peers.TORCH, peers.OPENVINO):
            values = [(size, row.gb_s(name)) for size, row in zip(sizes, rows, strict=True)]
            there = [(size, value) for size, value in values if value]
            if there:
                _line(panel, name, [s for s, _ in there], [v for _, v in there])
        for size, row in zip(sizes, rows, strict=True):
            share, speed = report.share(row, ours.KERNEL), row.gb_s(ours.KERNEL)
            if share and speed:
                panel.annotate(
                    f"{100 * share:.0f} %", (size, speed), (0, -12), fontsize="x-small",
                    textcoords="offset points", ha="center", color=COLOURS[ours.KERNEL],
                    bbox=PAPER,
                )  # fmt: skip
        _sizes(panel, sizes, "hidden size H")
        panel.set_ylim(bottom=0)
    panels[0].set_ylabel("GB/s of weights")
    _legend(figure, panels)
    figure.suptitle("How fast weights are read (percent: share of what is possible)")
    return True


def _pools(report: Report, figure: Any) -> bool:
    """Time of a stream's frame by the number of streams, for the middle hidden size."""
    rows = [row for row in report.rows if row.section == "pools" and row.case]
    kinds = _by_kind(rows)
    if len({row.case.batch for row in rows if row.case}) < 2:
        return False
    panels = _panels(figure, list(kinds))
    for panel, of_kind in zip(panels, kinds.values(), strict=True):
        sizes = sorted({row.case.hidden_size for row in of_kind if row.case})
        H = sizes[len(sizes) // 2]
        chosen = [row for row in of_kind if row.case and row.case.hidden_size == H]
        for name in COLUMNS:
            points = [(row.case.batch, row.us(name)) for row in chosen if row.case]
            there = [(x, y) for x, y in points if y]
            if there:
                _line(panel, name, [x for x, _ in there], [y for _, y in there])
        _sizes(panel, sorted({row.case.batch for row in chosen if row.case}), "streams")
        panel.set_title(f"{panel.get_title()}, H = {H}")
        panel.set_ylim(bottom=0)
    panels[0].set_ylabel("µs a frame of a stream, median")
    _legend(figure, panels)
    figure.suptitle(f"One frame of many streams a call, one thread: {report.machine['CPU']}")
    return True


def _jitter(report: Report, figure: Any) -> bool:
    if not report.jitter:
        return False
    figure.set_size_inches(9, 4.8)
    panel = figure.subplots()
    lowest = min(f.percentiles_us["50"] for f in report.jitter) / 2
    highest = 1.5 * max(found.max_us for found in report.jitter)
    for k, found in enumerate(report.jitter):
        colour = ("0.6", "C3", "C0")[k]
        panel.stairs(
            found.counts, found.edges_us, fill=k < 2, color=colour, alpha=0.75, label=found.label
        )
        if k == 1:
            marks = {**found.percentiles_us, "100": found.max_us}
            for number, us in marks.items():
                panel.axvline(us, color=colour, lw=0.8, ls=":")
                said = {"50": "median", "100": "max"}.get(number, f"p{number}")
                text = f"{said} {us:.3g} µs" if us < 1000 else f"{said} {us / 1000:.3g} ms"
                height = 0.7 if said == "p99" else 0.98  # it is close to the median
                panel.annotate(
                    text, (us, height), (2, 0), fontsize="x-small", rotation=90,
                    xycoords=("data", "axes fraction"), textcoords="offset points", va="top",
                    bbox=PAPER,
                )  # fmt: skip
    panel.set_xscale("log")
    panel.set_yscale("log")
    panel.set_xlim(lowest, highest)
    panel.set_ylim(bottom=0.7, top=20 * report.jitter[0].steps)
    panel.set_xlabel("µs a call")
    panel.set_ylabel("calls")
    panel.legend(loc="center right", fontsize="small")
    panel.set_title(
        f"{report.jitter[0].steps:,} steps, garbage collector on: {report.machine['CPU']}"
    )
    return True


def _endurance(report: Report, figure: Any) -> bool:
    if not report.endurance:
        return False
    figure.set_size_inches(9, 4.2)
    times, memory = figure.subplots(1, 2)
    looks = report.endurance
    frames = [look.frames / 1e6 for look in looks]
    times.plot(frames, [1e3 * look.block_us for look in looks], "o-", ms=3, label="in blocks")
    times.plot(frames, [1e3 * look.step_us for look in looks], "o-", ms=3, label="from Python")
    times.set_ylabel("ns a frame")
    times.legend(fontsize="small", loc="upper left", ncols=2)
    memory.plot(frames, [look.memory_kib / 1024 for look in looks], "o-", ms=3, color="C2")
    memory.set_ylabel("memory of the process, MiB")
    for panel in (times, memory):
        panel.set_ylim(0, 1.3 * panel.get_ylim()[1])
        panel.set_xlabel("millions of frames")
        panel.grid(alpha=0.25)
    figure.suptitle("One stream (GRU 8 -> 8) for very many frames")
    return True
