r"""Recurrent layers with what the compiled cells do not have, spelled out in ops.

Other activation functions, peepholes, a projection. Each computes the equations of its cell, with
``gate``, ``candidate`` and ``output`` in place of the sigmoid and the tanh::

    RNN    h' = candidate(W_ih x + b_ih + W_hh h + b_hh)

    GRU    r, z, n as in GRUCell, with gate(...), gate(...) and candidate(...)

    LSTM   i = gate(W_ii x + W_hi h + b_i + p_i * c)             Sak, Senior and Beaufays, "Long
           f = gate(W_if x + W_hf h + b_f + p_f * c)             Short-Term Memory Recurrent Neural
           g = candidate(W_ig x + W_hg h + b_g)                  Network Architectures for Large
           c' = f * c + i * g                                    Scale Acoustic Modeling", 2014,
           o = gate(W_io x + W_ho h + b_o + p_o * c')            equations 1 to 6; torch's
           h' = W_hr (o * output(c'))                            ``proj_size``

where p is zero without peepholes, and W_hr the identity without a projection. Weights have torch's
names and gate order. A step takes a little longer than that of a compiled cell.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import numpy as np

from .errors import ConfigError, GraphError, StateError
from .graph import Input, Value, describe
from .layer import Layer
from .ops.activations import Sigmoid, Tanh
from .ops.constant import Constant
from .ops.linear import Linear
from .ops.op import Op
from .ops.past import Past

__all__ = ["GRUVariant", "LSTMVariant", "RNNVariant"]

Function = Callable[[Value], Value]
"""An activation function: a layer of ours, or any function of a symbolic value."""


class _Variant(Layer):
    """What the variants share: two products, and states that are values of the frame before."""

    gates: ClassVar[int]

    def __init__(
        self, input_size: int, hidden_size: int, bias: bool, name: str | None, output_size: int = 0
    ) -> None:
        kind = type(self).__name__
        for size, value in (("input_size", input_size), ("hidden_size", hidden_size)):
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ConfigError(f"{kind}: `{size}` must be a positive integer, got {value!r}")
        self.name = name
        self.input_size, self.hidden_size = input_size, hidden_size
        self.output_size = output_size or hidden_size
        rows = self.gates * hidden_size
        self.of_x = Linear(input_size, rows, bias, name=self._named("ih"))
        self.of_h = Linear(self.output_size, rows, bias, name=self._named("hh"))
        self.pasts = {"h": Past(self.output_size, name=self._named("h"))}

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.input_size}, {self.hidden_size})"

    def _named(self, part: str) -> str | None:
        return None if self.name is None else f"{self.name}.{part}"

    def input_values(self) -> tuple[Value, ...]:
        return (Input(self.input_size),)

    def named_parameters(self) -> dict[str, tuple[Op, str]]:
        return {
            f"{kind}_{part}": (op, kind)
            for part, op in (("ih", self.of_x), ("hh", self.of_h))
            for kind in op.parameter_shapes()
        }

    @property
    def initial_state(self) -> dict[str, Any]:
        """States that do not begin at zero, by name; set it to a trained initial state."""
        given = {name: past.initial_state for name, past in self.pasts.items()}
        return {name: state[""] for name, state in given.items() if state}

    @initial_state.setter
    def initial_state(self, arrays: Mapping[str, Any]) -> None:
        unknown = arrays.keys() - self.pasts.keys()
        if unknown:
            raise StateError(
                f"{self!r} has the states {', '.join(self.pasts)}, got {', '.join(sorted(unknown))}"
            )
        for name, array in arrays.items():
            shape, given = self.pasts[name].state_shapes()[""], np.asarray(array, np.float32)
            if given.shape != shape or not np.isfinite(given).all():
                raise StateError(
                    f"{self!r}: initial state {name!r} must be finite numbers of shape {shape}, "
                    f"got {describe(given)}" + " with a NaN or an infinity" * (given.shape == shape)
                )
        for name, past in self.pasts.items():
            past.initial_state = {"": arrays[name]} if name in arrays else {}

    def _parts(self, z: Value) -> list[Value]:
        """Return the gates, one after another."""
        H = self.hidden_size
        return [z[k * H : (k + 1) * H] for k in range(self.gates)]

    def __call__(self, *values: Value) -> Value:
        if len(values) != 1:
            raise GraphError(f"{self!r} reads one value, got {len(values)}")
        h = self.pasts["h"](values[0])
        new_h = self._step(values[0], h)
        Past.feed(h, new_h)
        return new_h

    def _step(self, x: Value, h: Value) -> Value:
        """Return the new hidden state."""
        raise NotImplementedError


class RNNVariant(_Variant):
    """A plain recurrent layer with any activation function; see the module's text.

    Frames are float32 [shape=(I,)], outputs and state ``h`` float32 [shape=(H,)]. Weights as in
    :class:`RNNCell`.

    Parameters
    ----------
    input_size, hidden_size : int
        Numbers in a frame, and in the state.
    bias : bool
        Whether there are biases.
    candidate : callable
        The activation function: a layer, or a function of a symbolic value.
    name : str, optional
        Name in a model; the state is called ``name.h``.

    Raises
    ------
    ConfigError
        If a size is not a positive integer.
    """

    gates = 1

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        *,
        candidate: Function | None = None,
        name: str | None = None,
    ) -> None:
        super().__init__(input_size, hidden_size, bias, name)
        self.candidate = candidate or Tanh()

    def _step(self, x: Value, h: Value) -> Value:
        return self.candidate(self.of_x(x) + self.of_h(h))


class GRUVariant(_Variant):
    """A GRU layer with any activation functions; see the module's text.

    Frames are float32 [shape=(I,)], outputs and state ``h`` float32 [shape=(H,)]. Weights as in
    :class:`GRUCell`, gates in the order r, z, n.

    Parameters
    ----------
    input_size, hidden_size : int
        Numbers in a frame, and in the state.
    bias : bool
        Whether there are biases.
    reset_after : bool
        Whether the reset gate acts after the recurrent product; see :class:`GRUCell`.
    gate, candidate : callable
        The activation functions: layers, or functions of a symbolic value.
    name : str, optional
        Name in a model; the state is called ``name.h``.

    Raises
    ------
    ConfigError
        If a size is not a positive integer.
    """

    gates = 3

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        *,
        reset_after: bool = True,
        gate: Function | None = None,
        candidate: Function | None = None,
        name: str | None = None,
    ) -> None:
        super().__init__(input_size, hidden_size, bias, name)
        self.reset_after = reset_after
        self.gate, self.candidate = gate or Sigmoid(), candidate or Tanh()

    def _step(self, x: Value, h: Value) -> Value:
        xr, xz, xn = self._parts(self.of_x(x))
        hr, hz, hn = self._parts(self.of_h(h))
        r, z = self.gate(xr + hr), self.gate(xz + hz)
        reset = r * hn if self.reset_after else self._parts(self.of_h(r * h))[2]
        n = self.candidate(xn + reset)
        return n + z * (h - n)


class LSTMVariant(_Variant):
    """An LSTM layer with peepholes, a projection or any activation functions; see the module.

    Frames are float32 [shape=(I,)], outputs and state ``h`` float32 [shape=(P,)], state ``c``
    [shape=(H,)]; P is H without a projection. Weights as in ``torch.nn.LSTM`` without the ending
    ``_l0``: ``weight_ih`` (4H, I), ``weight_hh`` (4H, P), ``bias_ih`` and ``bias_hh`` (4H,), gates
    in the order i, f, g, o; with a projection ``weight_hr`` (P, H); with peepholes ``weight_pi``,
    ``weight_pf`` and ``weight_po`` (H,).

    Parameters
    ----------
    input_size, hidden_size : int
        Numbers in a frame, and in the cell state.
    bias : bool
        Whether there are biases.
    proj_size : int
        Numbers in the output; 0 for no projection.
    peepholes : bool
        Whether the gates see the cell state.
    gate, candidate, output : callable
        The activation functions: layers, or functions of a symbolic value.
    name : str, optional
        Name in a model; the states are called ``name.h`` and ``name.c``.

    Raises
    ------
    ConfigError
        If a size is not a positive integer, or `proj_size` is negative.
    """

    gates = 4

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        *,
        proj_size: int = 0,
        peepholes: bool = False,
        gate: Function | None = None,
        candidate: Function | None = None,
        output: Function | None = None,
        name: str | None = None,
    ) -> None:
        if isinstance(proj_size, bool) or not isinstance(proj_size, int) or proj_size < 0:
            raise ConfigError(
                f"LSTMVariant: `proj_size` must be 0 (none) or a positive integer, "
                f"got {proj_size!r}"
            )
        super().__init__(input_size, hidden_size, bias, name, proj_size)
        self.pasts["c"] = Past(hidden_size, name=self._named("c"))
        self.projection = None
        if proj_size:
            self.projection = Linear(hidden_size, proj_size, False, name=self._named("hr"))
        self.peepholes = {
            letter: Constant(hidden_size, name=self._named(f"p{letter}"))
            for letter in ("ifo" if peepholes else "")
        }
        self.gate, self.candidate = gate or Sigmoid(), candidate or Tanh()
        self.output = output or Tanh()

    def named_parameters(self) -> dict[str, tuple[Op, str]]:
        named = super().named_parameters()
        if self.projection is not None:
            named["weight_hr"] = (self.projection, "weight")
        return named | {f"weight_p{k}": (op, "value") for k, op in self.peepholes.items()}

    def _seeing(self, letter: str, z: Value, c: Value) -> Value:
        """Return the sum of a gate with the cell state that it sees through its peephole."""
        return z + c * self.peepholes[letter](c) if self.peepholes else z

    def _step(self, x: Value, h: Value) -> Value:
        c = self.pasts["c"](x)
        i, f, g, o = self._parts(self.of_x(x) + self.of_h(h))
        i = self.gate(self._seeing("i", i, c))
        f = self.gate(self._seeing("f", f, c))
        new_c = f * c + i * self.candidate(g)
        o = self.gate(self._seeing("o", o, new_c))
        Past.feed(c, new_c)
        new_h = o * self.output(new_c)
        return new_h if self.projection is None else self.projection(new_h)
