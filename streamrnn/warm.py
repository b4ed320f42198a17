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
from .kernels.pool import ADVANCE, CHECK
from .kernels.tape import LOOP, Kernel
from .layer import Layer

__all__ = ["Warmup", "parts_of", "warmup"]


@dataclass(frozen=True)
class Warmup:
    """What a warm-up has found and done.

    Parameters
    ----------
    folder : Path
        Where compiled kernels are kept.
    kernels : int
        Kernels that are needed, the loop that calls them included.
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

    Raises
    ------
    ConfigError
        If something else than a model is given.
    """
    found: dict[int, Part] = {id(LOOP): LOOP}
    for model in models:
        if not isinstance(model, Layer):
            raise ConfigError(f"warmup: expected models, got {describe(model)}")
        found |= {id(kernel): kernel for kernel in model.program().kernels}
    if not models:
        from . import ops

        found |= {id(CHECK): CHECK, id(ADVANCE): ADVANCE}
        for module in pkgutil.iter_modules(ops.__path__, f"{ops.__name__}."):
            for value in vars(importlib.import_module(module.name)).values():
                if isinstance(value, Kernel):
                    found[id(value)] = value
                    if value.split is not None:
                        found[id(value.split)] = value.split
    return list(found.values())


def warmup(
    *models: Layer, jobs: int | None = None, told: Callable[[int, int], None] | None = None
) -> Warmup:
    """Compile what models need, so that the first stream on this machine starts at once.

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
