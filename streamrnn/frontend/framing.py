"""Windows that overlap, cut from a stream of hops; and what is done to samples before a transform.

Frame m of a front end covers the samples ``m * hop - padding`` up to ``m * hop - padding + length``
(samples before the first one are zero). It is there with the step that brings its last sample:
``delay_frames`` says how many steps after step m. Three paddings have names of their own elsewhere:

=============  ===================  ======================================================
``padding``    samples              frames are those of
=============  ===================  ======================================================
``0``                               librosa and torch with ``center=False``, Kaldi
``"center"``   ``length // 2``      librosa and torch, ``center=True, pad_mode="constant"``
``"causal"``   ``length - hop``     no delay: a frame ends with the newest sample
=============  ===================  ======================================================

(The mirrored padding that torch calls ``"reflect"`` shows samples of the future in place of the
past, and those of the end before anybody knows that it is the end: there is no stream of it.)
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any

from ..errors import ConfigError, GraphError
from ..graph import Input, Shape, Value, shown
from ..layer import Layer
from ..ops.activations import Hardtanh
from ..ops.context import Context
from ..ops.rearrange import Flatten, Pad, Reshape, Slice
from ..ops.recent import Recent
from ..ops.reduce import Mean

if TYPE_CHECKING:
    from ..ops.op import Op

__all__ = ["Frames", "FrontEnd", "PreEmphasis", "RemoveMean"]


_WANTED: dict[str, Any] = {
    "int": ("an integer", int),
    "float": ("a finite number", int, float),
    "bool": ("True or False", bool),
    "str": ("a text", str),
}


def _well_placed(value: Any, kind: Any) -> bool:
    """Whether no truth stands where a number belongs, and every number is finite."""
    return kind == "str" or (isinstance(value, bool) == (kind == "bool") and math.isfinite(value))


@dataclass(eq=False)
class FrontEnd(Layer):
    """A layer made of ops whose numbers all follow from its arguments: it has no weights.

    Parameters
    ----------
    name : str, optional
        What a model calls the layer.
    """

    name: str | None = field(default=None, kw_only=True, repr=False)

    def __post_init__(self) -> None:
        for spec in fields(self):
            value, wanted = getattr(self, spec.name), _WANTED.get(str(spec.type))
            if wanted and not (isinstance(value, wanted[1:]) and _well_placed(value, spec.type)):
                raise ConfigError(
                    f"{type(self).__name__}: `{spec.name}` must be {wanted[0]}, got {value!r}"
                )
        self.check()
        if self.input_shape is not None:
            self(Input(self.input_shape))  # the ops refuse what makes no sense

    def check(self) -> None:
        """Raise ConfigError where the arguments make no sense together."""

    @property
    def input_shape(self) -> Shape | None:
        """Shape of a frame, where the arguments fix it."""
        return None

    def build(self, x: Value) -> Value:
        """Return the layer's output for the value of a frame."""
        raise NotImplementedError

    def __call__(self, *values: Value) -> Value:
        wanted = self.input_shape
        if len(values) != 1 or (wanted is not None and values[0].shape != wanted):
            shape = "of any shape" if wanted is None else f"of shape {wanted}"
            raise GraphError(
                f"{self!r} expects frames {shape}, got {shown([v.shape for v in values])}"
            )
        return self.build(values[0])

    def input_values(self) -> tuple[Value, ...]:
        shape = self.input_shape
        return super().input_values() if shape is None else (Input(shape),)

    def named_parameters(self) -> dict[str, tuple[Op, str]]:
        return {}

    def at_least(self, limit: int, *names: str) -> None:
        """Raise ConfigError if an argument is below `limit`."""
        for name in names:
            if getattr(self, name) < limit:
                raise ConfigError(
                    f"{type(self).__name__}: `{name}` must be at least {limit}, "
                    f"got {getattr(self, name)}"
                )


def padded_samples(who: str, padding: int | str, length: int, hop: int) -> int:
    """Return how many zeros come before the first sample."""
    named = {"center": length // 2, "causal": max(length - hop, 0)}
    if padding == "reflect":
        raise ConfigError(
            f"{who}: padding='reflect' mirrors samples that have not come yet: a stream can have "
            f"'center' (zeros in front), 'causal' or a number of samples"
        )
    samples = named.get(padding, padding) if isinstance(padding, str) else padding
    if isinstance(samples, bool) or not isinstance(samples, int) or not 0 <= samples < length:
        raise ConfigError(
            f"{who}: `padding` must be 'center', 'causal' or from 0 to {length - 1} samples (a "
            f"frame has {length}), got {padding!r}"
        )
    return samples


@dataclass(eq=False)
class Frames(FrontEnd):
    """Windows of `length` samples, one each hop; see the module's text.

    Frames are float32 [shape=(hop_length,)], outputs float32 [shape=(length,)].

    Parameters
    ----------
    length : int
        Samples in a window; it may be longer or shorter than the hop.
    hop_length : int
        Samples from one window to the next: what a step takes.
    padding : int or str
        Zeros before the first sample: a number, ``"center"`` or ``"causal"``.
    name
        See :class:`FrontEnd`.

    Raises
    ------
    ConfigError
        If a size is not positive, or the padding is another or longer than a window.
    """

    length: int
    hop_length: int
    padding: int | str = 0

    def check(self) -> None:
        self.at_least(1, "length", "hop_length")
        padded_samples("Frames", self.padding, self.length, self.hop_length)

    @property
    def input_shape(self) -> Shape:
        return (self.hop_length,)

    def build(self, x: Value) -> Value:
        hop, length = self.hop_length, self.length
        padding = padded_samples("Frames", self.padding, length, hop)
        before = -(-padding // hop)  # whole hops in front of hop m, …
        ahead = -(-(length - padding) // hop) - 1  # … and behind it
        taps = before + 1 + ahead
        if taps > 1:
            hops = Recent(taps, lookahead=ahead)(Reshape((1, hop))(x))
            x = Flatten()(hops)
        first = before * hop - padding
        return x if taps * hop == length else Slice(first, first + length)(x)


@dataclass(eq=False)
class PreEmphasis(FrontEnd):
    """``y[t] = x[t] - coefficient * x[t - 1]`` over the whole stream of samples, 0 before it.

    Frames and outputs are float32 [shape=(n,)]. That is ``torchaudio.functional.preemphasis``.
    (Kaldi does it within each window: see ``LogMel(style="kaldi")``.)

    Parameters
    ----------
    coefficient : float
        Usually 0.97.
    name
        See :class:`FrontEnd`.
    """

    coefficient: float = 0.97

    def build(self, x: Value) -> Value:
        both = Context(1)(x)
        return both[1:] - both[:-1] * self.coefficient


@dataclass(eq=False)
class RemoveMean(FrontEnd):
    """Each frame minus its own mean; frames and outputs are float32 [shape=(n,)]."""

    def build(self, x: Value) -> Value:
        return x - Mean(keepdims=True)(x)


def bounded(x: Value, points: int) -> Value:
    """Return samples of at most ``2**62 / points**1.5``, and all others as this largest one.

    Then neither a transform of so many points, nor its power, nor a sum of powers overflows
    (``points * (points * limit)**2 < 2**125``): one mad sample leaves no infinity, and so no NaN
    for good, in the states behind a front end.
    """
    limit = 2.0 ** math.floor(62 - 1.5 * math.log2(points))
    return Hardtanh(-limit, limit)(x)


def emphasized_within(x: Value, coefficient: float) -> Value:
    """Return a window after Kaldi's pre-emphasis: the first sample stands for the one before it."""
    both = Pad(1, 0, "replicate")(x)
    return both[1:] - both[:-1] * coefficient
