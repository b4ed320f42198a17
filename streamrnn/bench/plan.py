"""What is measured: the sections, the sizes in each, and the run through them."""

from __future__ import annotations

import contextlib
import importlib.util
import itertools
import sys
import tempfile
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from subprocess import CalledProcessError
from typing import Any

from rich.console import Console
from rich.progress import Progress

from ..errors import ConfigError
from . import jitter, limits, models, peers, row, start
from .case import CELLS, Case, input_size
from .models import ModelFile
from .report import Report
from .timing import FULL, QUICK, DisagreementError, Effort

__all__ = ["DEFAULT_SECTIONS", "SECTIONS", "Plan", "cases", "plan", "repository_models", "run"]

SECTIONS = {
    "steps": "one frame of one stream a call: cells, one and three layers",
    "ops": "the same of Linear and Conv1d",
    "blocks": "blocks of frames of one stream",
    "pools": "one frame of many streams a call",
    "models": "real models (in the repository, or a FILE): a step, how long they load, and a new "
    "process until the first output, with an empty cache of kernels and with a full one",
    "start": "a new process, from its start to the first output",
    "jitter": "each of a million steps",
    "endurance": "a hundred million steps, memory and time; only where it is asked for",
}
DEFAULT_SECTIONS = tuple(name for name in SECTIONS if name != "endurance")

SIZES = (8, 16, 32, 64, 128, 256, 512, 1024)
QUICK_SIZES = (16, 64, 256)
DEEP_SIZES = (64, 256)
"""Hidden sizes of the stacks of several layers, unless sizes are asked for."""
BLOCK_SIZES = (32, 128, 512)
POOL_SIZES = (64, 128, 256)


@dataclass(frozen=True)
class Plan:
    """What a run measures.

    Parameters
    ----------
    sections, cells : tuple of str
        Parts of the benchmark; kinds of recurrent layers.
    sizes : tuple of int
        Hidden sizes; empty: those that each section has.
    layers, blocks, batches : tuple of int
        Layers in a stack, frames in a block, streams side by side.
    peers : tuple of str
        Who is compared with; empty: all.
    effort : Effort
        How long.
    endurance_steps : int
        Frames of the endurance run.
    quick : bool
        Whether sections take fewer sizes.
    """

    sections: tuple[str, ...] = DEFAULT_SECTIONS
    cells: tuple[str, ...] = tuple(CELLS)
    sizes: tuple[int, ...] = ()
    layers: tuple[int, ...] = (1, 3)
    blocks: tuple[int, ...] = (16, 256)
    batches: tuple[int, ...] = (16, 64, 1024)
    peers: tuple[str, ...] = ()
    effort: Effort = FULL
    endurance_steps: int = 100_000_000
    quick: bool = False


def plan(quick: bool = False, **choices: Any) -> Plan:
    """Return a plan; a quick one has fewer sizes, unless they are chosen.

    Parameters
    ----------
    quick : bool
        Whether it is one that takes half a minute.
    choices
        Fields of the plan; those that are None or empty are left as they are.

    Raises
    ------
    ConfigError
        If a section, a cell or a peer is unknown, or a number is not positive.
    """
    chosen = {name: value for name, value in choices.items() if value}
    if quick:
        few = {"cells": ("LSTM", "GRU"), "blocks": (16,), "batches": (64,), "effort": QUICK}
        chosen = {"quick": True, **few, **chosen}
    known: dict[str, Collection[str]] = {
        "sections": SECTIONS,
        "cells": CELLS,
        "peers": peers.LIBRARIES,
    }
    for name, names in known.items():
        for given in chosen.get(name, ()):
            if given not in names:
                raise ConfigError(f"{name} must be of {', '.join(names)}, got {given!r}")
    for name in ("sizes", "layers", "blocks", "batches"):
        for number in chosen.get(name, ()):
            if not 1 <= number <= 1 << 16:
                raise ConfigError(f"{name} must be from 1 to 65536, got {number}")
    return Plan(**chosen)


def cases(chosen: Plan, section: str) -> list[Case]:
    """Return what a section measures; a chosen size is measured in all of them."""
    sizes, quick = chosen.sizes, chosen.quick
    if section == "steps":
        return [
            Case(kind, input_size(H), H, n)
            for kind in chosen.cells
            for n in chosen.layers
            for H in sizes or (QUICK_SIZES if quick else SIZES if n == 1 else DEEP_SIZES)
            if n == 1 or sizes or not quick
        ]
    if section == "ops":
        few = sizes or ((256,) if quick else (64, 256, 512))
        return [Case(kind, H, H) for kind in ("Linear", "Conv1d") for H in few]
    if section == "blocks":
        few = sizes or ((128,) if quick else BLOCK_SIZES)
        return [
            Case(kind, input_size(H), H, 1, T)
            for kind in chosen.cells
            for H in few
            for T in chosen.blocks
        ]
    few = sizes or ((128,) if quick else POOL_SIZES)
    return [
        Case(kind, input_size(H), H, 1, 1, B)
        for kind in chosen.cells
        for H in few
        for B in chosen.batches
        if B > 1
    ]


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


def run(chosen: Plan, found: Report, file: ModelFile | None = None) -> None:
    """Measure what is planned and put it into the report, as soon as it is known.

    Parameters
    ----------
    chosen : Plan
        What to measure.
    found : Report
        Where to; when the run is interrupted, it holds what has been measured so far.
    file : ModelFile, optional
        A model to measure in place of the repository's.

    Raises
    ------
    DisagreementError
        If contenders give different outputs.
    """
    every = tuple(p for p in peers.LIBRARIES if not (chosen.quick and p == peers.COMPILED))
    wanted, rounds = chosen.peers or every, chosen.effort.rounds
    # The other sections are about this process alone: no peer's library is loaded into it.
    if set(chosen.sections) - {"start", "jitter", "endurance"}:
        found.skipped |= {p: peers.missing(p) for p in wanted if not peers.available(p)}
        with announced("limits of this machine", 1):
            found.limits = limits.measure()
    for section in chosen.sections:
        if section in ("steps", "ops", "blocks", "pools"):
            for case in cases(chosen, section):
                with announced(str(case), rounds) as tick:
                    found.rows.append(
                        row.measured(section, case, wanted, chosen.peers, chosen.effort, tick)
                    )
        elif section == "models":
            with tempfile.TemporaryDirectory() as folder:
                _models(chosen, wanted, found, [file] if file else None, Path(folder))
        elif section == "start":
            with announced("start of a process", 1 + chosen.effort.starts) as tick:
                found.start = start.cold_start(chosen.effort, tick)
        elif section == "jitter":
            with announced("jitter", 1):
                found.jitter = jitter.jitter(chosen.effort.jitter_steps)
        else:
            with announced("endurance", jitter.POINTS) as tick:
                found.endurance = jitter.endure(chosen.endurance_steps, tick)


def _models(
    chosen: Plan,
    wanted: Collection[str],
    found: Report,
    files: Sequence[ModelFile] | None,
    folder: Path,
) -> None:
    """Measure models: a step, a pool of the first, how long they load, and a new process."""
    given = files is not None
    if files is None:
        try:
            every = repository_models(folder, found.skipped)
            files = list(itertools.islice(every, 1 if chosen.quick else None))
        except Exception as error:  # an installed package, a test library that is missing, …
            found.skipped["real models"] = f"{type(error).__name__}: {error}"
            return
    for file in files:
        with announced(file.label, chosen.effort.rounds) as tick:
            try:
                found.rows.append(models.measured(file, wanted, chosen.effort, tick, found.skipped))
            except DisagreementError:
                raise
            except Exception as error:
                if given:
                    raise
                found.skipped[file.label] = f"{type(error).__name__}: {error}"
                continue
        if file.why:
            found.notes[file.label] = file.why
        if file.unlike:
            found.unlike[file.label] = file.unlike
    if files and not given:
        with announced(f"{files[0].label}, pool", chosen.effort.rounds) as tick:
            found.rows.append(models.pooled(files[0], chosen.effort, tick))
    files = [file for file in files if file.label not in found.skipped]
    for file in files:
        if file.path.suffix == ".onnx":
            with announced(f"loading {file.label}", 1):
                found.loading.append(models.loading(file, max(3, chosen.effort.rounds // 2)))
    for file in () if chosen.quick else files:
        with announced(f"first output of {file.label}", 1):
            try:
                found.first_outputs += start.first_outputs(file, folder)
            except CalledProcessError as error:  # it has said why
                found.skipped[f"first output of {file.label}"] = str(error)


def repository_models(folder: Path, skipped: dict[str, str]) -> Iterator[ModelFile]:
    """Return the real models that the repository's benchmarks know, one by one.

    Those that cannot be had are put into `skipped`, with the reason.

    Raises
    ------
    ConfigError
        If this is an installed package, without the repository around it.
    """
    path = Path(__file__).resolve().parents[2] / "benchmarks" / "models.py"
    if not path.is_file():
        raise ConfigError(
            "the repository knows which models to fetch, and this is an installed package: "
            "streamrnn bench FILE measures a model of your own"
        )
    spec = importlib.util.spec_from_file_location("streamrnn_real_models", path)
    assert spec is not None
    assert spec.loader is not None
    module: Any = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    models: Iterator[ModelFile] = module.real_models(folder, skipped)
    return models
