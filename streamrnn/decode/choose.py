"""Which token comes next, given the log-probabilities of all."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import ConfigError
from ..ops.op import check_seed

__all__ = ["Choose", "Greedy", "Sample", "check_integer", "largest"]

Array = npt.NDArray[np.float64]

Choose = Callable[[Array], int]
"""From log-probabilities, float64 [shape=(V,)], to a token: 0 to V - 1."""


def largest(values: Array, k: int) -> npt.NDArray[np.intp]:
    """Return where the k largest of `values` [shape=(n,)] are, best first; of equals the first."""
    k = min(k, values.size)
    bound = np.partition(values, values.size - k)[values.size - k]
    above = np.flatnonzero(values > bound)
    chosen = np.concatenate([above, np.flatnonzero(values == bound)[: k - above.size]])
    return chosen[np.argsort(-values[chosen], kind="stable")]


def check_integer(who: str, name: str, value: Any) -> int:
    """Return an argument; raise ConfigError unless it is an integer of at least 1."""
    integer = isinstance(value, (int, np.integer)) and not isinstance(value, bool)
    if not integer or value < 1:
        raise ConfigError(f"{who}: `{name}` must be an integer of at least 1, got {value!r}")
    return int(value)


def check_number(who: str, name: str, value: Any, top: float = math.inf) -> None:
    """Raise ConfigError unless an argument is a finite number above 0 and at most `top`."""
    number = isinstance(value, (int, float, np.integer, np.floating))
    if not number or isinstance(value, bool) or not (math.isfinite(value) and 0 < value <= top):
        limit = "" if top == math.inf else f" and at most {top:g}"
        raise ConfigError(f"{who}: `{name}` must be a number above 0{limit}, got {value!r}")


@dataclass(frozen=True)
class Greedy:
    """The most probable token; of several alike the first."""

    def __call__(self, log_probabilities: Array) -> int:
        """Return the token, given float64 [shape=(V,)]."""
        return int(log_probabilities.argmax())


@dataclass(frozen=True)
class Sample:
    """A random token. The three restrictions are applied in the order of the arguments.

    Parameters
    ----------
    temperature : float
        The logits are divided by it: below 1 the likely tokens become likelier.
    top_k : int, optional
        Only the k most probable tokens are possible; of equals at the border the first ones.
    top_p : float, optional
        Only the fewest tokens are possible, most probable first, that have this probability
        together; at least one (nucleus sampling: Holtzman et al., 2020).
    seed : int, optional
        The same seed and the same logits give the same tokens. The random numbers go on from one
        text to the next: for the same text again make a new ``Sample``.

    Raises
    ------
    ConfigError
        If `temperature` is not above 0 (``Greedy()`` is its limit at 0), `top_k` not a positive
        integer, `top_p` not above 0 and at most 1, or `seed` not a non-negative integer.
    """

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None
    seed: int | None = None
    _random: np.random.Generator = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if isinstance(self.temperature, (int, float)) and self.temperature == 0:
            raise ConfigError(
                "Sample: `temperature` must be a number above 0, got 0: the most probable token "
                "is what Greedy() chooses"
            )
        check_number("Sample", "temperature", self.temperature)
        if self.top_k is not None:
            check_integer("Sample", "top_k", self.top_k)
        if self.top_p is not None:
            check_number("Sample", "top_p", self.top_p, top=1.0)
        check_seed("Sample", self.seed)
        object.__setattr__(self, "_random", np.random.default_rng(self.seed))

    def probabilities(self, log_probabilities: Array) -> Array:
        """Return the distribution that tokens are drawn from.

        Parameters
        ----------
        log_probabilities : float64 [shape=(V,)]
            Those of the model.

        Returns
        -------
        float64 [shape=(V,)]
            Probabilities, 0 for what `top_k` and `top_p` leave out.
        """
        with np.errstate(over="ignore"):  # far below the best one, at a low temperature
            p: Array = np.exp((log_probabilities - log_probabilities.max()) / self.temperature)
        if self.top_k is not None or self.top_p is not None:
            kept = largest(p, self.top_k or p.size)
            if self.top_p is not None:
                together = np.cumsum(p[kept])
                kept = kept[: 1 + int(np.searchsorted(together, self.top_p * together[-1]))]
            everything, p = p, np.zeros_like(p)
            p[kept] = everything[kept]
        return np.asarray(p / p.sum())

    def __call__(self, log_probabilities: Array) -> int:
        """Return a token, given float64 [shape=(V,)]."""
        together = np.cumsum(self.probabilities(log_probabilities))
        return int(np.searchsorted(together, self._random.random() * together[-1], side="right"))
