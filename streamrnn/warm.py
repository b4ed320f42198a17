"""Kernels compiled beforehand, so that no process has to wait for them: :func:`warmup`."""

from __future__ import annotations

import importlib
import pkgutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from .errors import ConfigError
from .graph import describe
from .kernels.cache import cache_folder
from .kernels.compile import Part, prepare
from .kernels.pool import ADVANCE, CHECK, POOL_JOB
from .kernels.tape import LOOP, Kernel
from .kernels.team import TEAM, split_forms
from .layer import Layer
from .narrow import STORAGES

__all__ = ["Warmup", "parts_of", "warmup"]


@dataclass(frozen=True)
class Warmup:
    """What a warm-up has found and done.

    Parameters
    ----------
    folder : Path
        Where compiled kernels are kept.
    kernels : int
        Kernels that are needed, the loops that call them included.
    compiled : int
        How many of them were compiled now; the others were there.
    seconds : float
        How long that took.
    """

    folder: Path
    kernels: int
    compiled: int
    seconds: float


def parts_of(*models: Layer) -> list[Part]:
    """Return what the models need compiled; without a model, all that the library has.

    That is for streams and pools, each with and without threads.

    Raises
    ------
    ConfigError
        If something else than a model is given.
    """
    kernels: list[Kernel | None] = []
    for model in models:
        if not isinstance(model, Layer):
            raise ConfigError(f"warmup: expected models, got {describe(model)}")
        program = model.program()
        kernels += [*program.kernels, *split_forms(program), *program.pool_kernels]
    for kernel in _all_kernels() if not models else ():
        for storage in STORAGES:
            form = kernel.storing(storage)
            kernels += [form, form.split]
    parts: list[Part] = [LOOP, *TEAM, CHECK, ADVANCE, POOL_JOB, *filter(None, kernels)]
    return list(dict.fromkeys(parts))


def _all_kernels() -> list[Kernel]:
    """Return the kernels of all ops, their forms for many streams among them."""
    from . import ops

    found: list[Kernel] = []
    for module in pkgutil.iter_modules(ops.__path__, f"{ops.__name__}."):
        values = vars(importlib.import_module(module.name)).values()
        found += [value for value in values if isinstance(value, Kernel)]
    return found


def warmup(
    *models: Layer, jobs: int | None = None, told: Callable[[int, int], None] | None = None
) -> Warmup:
    """Compile what models need, so that the first stream or pool on this machine starts at once.

    Threads that share the work need nothing else.

    Parameters
    ----------
    *models : Layer
        The models; without one, every kernel of the library is compiled (a few minutes).
    jobs : int, optional
        Processes that compile; one for each CPU unless said.
    told : callable, optional
        Is told ``(done, total)`` as it goes; otherwise it is shown as for any stream.

    Returns
    -------
    Warmup
        The cache's folder, how many kernels are needed and were compiled, and how long it took.

    Raises
    ------
    ConfigError
        If something else than a model is given, or `jobs` is no whole number from 1 on.
    """
    if jobs is not None and (type(jobs) is not int or jobs < 1):
        raise ConfigError(f"warmup: jobs must be a whole number from 1 on, got {jobs!r}")
    start = time.perf_counter()
    parts = parts_of(*models)
    compiled = prepare(parts, jobs, told)
    return Warmup(cache_folder(), len(parts), compiled, time.perf_counter() - start)
