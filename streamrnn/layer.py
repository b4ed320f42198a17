"""What every layer, stack and model can do: be called on values, hold weights, run a stream."""

from __future__ import annotations

import difflib
import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from .errors import ConfigError, GraphError, WeightError
from .graph import Graph, Input, Shape, Value, describe
from .metadata import checked_metadata
from .narrow import beyond

if TYPE_CHECKING:
    from .ops.op import Op
    from .pool import Pool
    from .program import Program
    from .stream import Result, StateView, Stream

__all__ = ["Changes", "Layer", "Model", "Sequential", "check_weights"]

Array = npt.NDArray[np.float32]


class Changes:
    """Counts every change of weights or initial states, anywhere: what was compiled may be old."""

    count = 0


def _identical(a: list[Any], b: list[Any]) -> bool:
    """Whether two lists hold the same dictionaries (a change replaces them, never alters them)."""
    return len(a) == len(b) and all(x is y for x, y in zip(a, b, strict=True))


class Layer:
    """Anything with inputs, an output and weights: an op, a stack of cells, a model.

    Call it on symbolic values to place it in a graph. By itself it is a model of one layer:
    ``layer.stream()`` runs it, and ``step``, ``run``, ``reset`` and ``state`` are those of a stream
    that the layer keeps for itself.
    """

    def __call__(self, *values: Value) -> Value:
        """Place this layer in a graph.

        Parameters
        ----------
        *values : Value
            What the layer reads.

        Returns
        -------
        Value
            What it makes.

        Raises
        ------
        GraphError
            If the number, shape, dtype or rate of the values does not fit.
        """
        raise NotImplementedError

    def __getstate__(self) -> dict[str, Any]:
        """Return what a copy takes along: not the compiled program nor the own stream."""
        return {k: v for k, v in self.__dict__.items() if k not in ("_program", "_own_stream")}

    def input_values(self) -> tuple[Value, ...]:
        """Return inputs that fit this layer.

        Raises
        ------
        GraphError
            If the layer takes frames of any shape.
        """
        raise GraphError(
            f"{self!r} takes frames of any shape: say which one, e.g. "
            f"Sequential(Input((8,)), {type(self).__name__}(…))"
        )

    def named_parameters(self) -> dict[str, tuple[Op, str]]:
        """Return every weight by its name (torch's, where torch has it), as (op, name there)."""
        raise NotImplementedError

    def graph(self) -> Graph:
        """Return the layer as a graph with inputs ``x`` (``x_0``, …) and output ``y``."""
        values = self.input_values()
        names = ["x"] if len(values) == 1 else [f"x_{i}" for i in range(len(values))]
        return Graph(dict(zip(names, values, strict=True)), {"y": self(*values)})

    @property
    def stride_frames(self) -> int:
        """Input frames from one output frame to the next."""
        return self.graph().clock.stride

    @property
    def delay_frames(self) -> int:
        """Input frames that an output comes later than what it describes (look-ahead)."""
        return self.graph().delay_frames()

    @property
    def receptive_field_frames(self) -> int | None:
        """Input frames that one output depends on; None where the past never ends."""
        return self.graph().receptive_field_frames()

    def state_dict(self) -> dict[str, Array]:
        """Return a copy of the weights by name: float32, those called ``…_int8`` int8."""
        return {n: op.weights[p].copy() for n, (op, p) in self.named_parameters().items()}

    def load_state_dict(self, weights: Mapping[str, Any]) -> None:
        """Take trained weights.

        Streams that exist go on with the weights they have; the layer's own stream starts anew.

        Parameters
        ----------
        weights : mapping of str to array
            Every weight of the layer, under torch's name and in torch's shape: arrays or torch
            tensors of a floating type. They are copied and kept as float32, or rounded to an op's
            own ``storage``.

        Raises
        ------
        WeightError
            If weights are missing, unknown, misshapen, not floating-point or not finite; all of
            them are named, and the layer is left as it was.
        """
        wanted = self.named_parameters()
        checked, problems = check_weights(wanted, weights)
        if problems:
            raise WeightError(f"{self!r} cannot take these weights: {'; '.join(problems)}")
        by_op: dict[int, tuple[Op, dict[str, Array]]] = {}
        for name, (op, parameter) in wanted.items():
            by_op.setdefault(id(op), (op, {}))[1][parameter] = checked[name]
        for op, arrays in by_op.values():
            op.weights = arrays

    def load_weights(
        self,
        path: str | Path,
        *,
        key: str | None = None,
        prefix: str = "",
        rename: Mapping[str, str | None] | None = None,
    ) -> None:
        """Take trained weights from a file, as :func:`streamrnn.load_weights` reads them.

        Raises
        ------
        FileError
            If the file cannot be read.
        WeightError
            If its weights are not those of the layer, see :meth:`load_state_dict`.
        """
        from .weights import load_weights

        self.load_state_dict(load_weights(path, key=key, prefix=prefix, rename=rename))

    def program(self) -> Program:
        """Return the layer compiled: packed weights and tape; kept until the weights change."""
        from .program import Program

        kept: tuple[int, Any, Program] | None = self.__dict__.get("_program")
        if kept is None or kept[0] != Changes.count:
            graph = self.graph()
            contents = [content for node in graph.nodes for content in node.op.contents()]
            same = kept is not None and _identical(kept[1], contents)
            program = kept[2] if kept is not None and same else Program(graph)
            kept = self.__dict__["_program"] = (Changes.count, contents, program)
        return kept[2]

    def stream(self, on_nonfinite: str = "raise", threads: int = 1) -> Stream:
        """Return a new stream of this layer; its state begins at the initial state.

        Parameters
        ----------
        on_nonfinite : str
            What to do with a frame that holds a NaN or an infinity: ``"raise"`` (the state stays
            as it was), ``"propagate"`` (compute with it) or ``"hold"`` (use the last good frame).
            States are not looked at. Where nothing holds them back, as in an RNN of ReLUs, finite
            frames can drive them beyond float32; outputs are then infinite or NaN until `reset`.
        threads : int
            Threads that share the work of each step, from 1 to 64; results are the same, bit for
            bit. They pay from about 100 units a layer on, no further than there are cores, and
            where steps follow each other: after half a millisecond without one the helpers sleep.

        Raises
        ------
        ConfigError
            If the policy is none of the three, or `threads` is out of range.
        """
        from .stream import Stream

        return Stream(self.program(), on_nonfinite, threads)

    def pool(self, on_nonfinite: str = "raise", threads: int = 1) -> Pool:
        """Return an empty pool: many streams of this layer that take their steps together.

        Parameters
        ----------
        on_nonfinite : str
            As for :meth:`stream`.
        threads : int
            Threads that share the streams of a step, from 1 to 64.

        Raises
        ------
        ConfigError
            If the policy is none of the three, or `threads` is out of range.
        """
        from .pool import Pool

        return Pool(self.program(), on_nonfinite, threads)

    @property
    def _stream(self) -> Stream:
        own: Stream | None = self.__dict__.get("_own_stream")
        if own is None or own.program is not self.program():  # the weights have changed
            own = self.__dict__["_own_stream"] = self.stream()
        return own

    def step(self, x: Any, out: Any = None) -> Result | None:
        """Run one frame through the layer's own stream; see :meth:`Stream.step`."""
        return self._stream.step(x, out)

    def run(self, xs: Any, out: Any = None) -> Result:
        """Run a block of frames through the layer's own stream; see :meth:`Stream.run`."""
        return self._stream.run(xs, out)

    def reset(self) -> None:
        """Return the layer's own stream to its initial state."""
        self._stream.reset()

    @property
    def state(self) -> StateView:
        """State of the layer's own stream; see :attr:`Stream.state`."""
        return self._stream.state

    @state.setter
    def state(self, values: Mapping[str, Any]) -> None:
        self._stream.state = values

    def quantize(
        self,
        mode: str,
        *,
        calibration: Any = None,
        keep: Sequence[str] = (),
        min_snr_db: float = 20.0,
        convolutions: bool | None = None,
    ) -> Model:
        """Return a new model with weights in fewer bytes; this one stays as it is.

        Parameters
        ----------
        mode : str
            ``"int8"``: recurrent cells and linear layers of at least 1,024 weights get weights of
            one byte, with a scale for each output. What they multiply is rounded to bytes frame by
            frame, each in its own range, so that nothing is ever cut off; sums are exact, states
            stay float32. ``"float16"`` or ``"bfloat16"``: matrices of cells, linear layers,
            convolutions and embeddings of at least 1,024 weights are kept in two bytes, in memory
            and in files, each number rounded to the nearest; all else is float32 arithmetic.
        calibration : array, tuple of arrays, or iterable of these, optional
            Recordings (T, *shape) like those that the model will meet. Weights are then rounded so
            that what is multiplied in these recordings gives the least error, not each by itself;
            and an op that alone would bring the outputs closer to their error than `min_snr_db`
            stays float32. Only for ``"int8"``: rounding to two bytes needs none.
        keep : sequence of str
            Ops that shall stay float32, by their names.
        min_snr_db : float
            Power of the outputs over that of their error, dB.
        convolutions : bool, optional
            Whether ``"int8"`` rounds convolutions inside a frame too. A frame has one range for all
            its channels, so some lose more than cells do. As a default those are rounded that,
            in the calibration, cost the outputs no more than any of the other ops does.

        Returns
        -------
        Model
            Its ``metadata["quantization"]`` says which ops were quantised, which were not, and why.
            :func:`streamrnn.quantize.compare` says what it costs.

        Raises
        ------
        ConfigError
            If there is no such mode, `keep` names no op, the calibration holds no frames of this
            model or is not needed, a weight is beyond the range of float16 or bfloat16, or there is
            nothing to quantise.
        """
        from .quantize import quantized

        return quantized(self, mode, calibration, keep, min_snr_db, convolutions)

    def save(self, path: str | Path) -> None:
        """Write the model to a ``.safetensors`` file; see :func:`streamrnn.load`.

        Raises
        ------
        FileError
            If the path does not end in ``.safetensors`` or cannot be written.
        """
        from .files import save

        save(self, path)


def check_weights(
    wanted: Mapping[str, tuple[Op, str]], given: Mapping[str, Any]
) -> tuple[dict[str, Array], list[str]]:
    """Return the weights that fit, as read-only arrays, and what is wrong with the others.

    They are float32, those whose name ends in ``_int8`` int8.

    Parameters
    ----------
    wanted : dict of str to (Op, str)
        Each weight's name, and where it belongs: an op, and its name there.
    given : mapping of str to array
        What there is.
    """
    if not isinstance(given, Mapping):
        return {}, [f"expected a mapping of names to arrays, got {describe(given)}"]
    shapes = {name: op.parameter_shapes()[own] for name, (op, own) in wanted.items()}
    checked: dict[str, Array] = {}
    missing = {n: shape for n, shape in shapes.items() if n not in given}
    unknown = {n: a for n, a in given.items() if n not in shapes}
    problems = [f"missing: {n} {s}{_nearest(n, s, unknown)}" for n, s in missing.items()]
    problems += [f"unknown: {n} {describe(a)}" for n, a in unknown.items()]
    for name in shapes.keys() & given.keys():
        op, own = wanted[name]
        dtype = np.dtype(np.int8 if own.endswith("_int8") else np.float32)
        checked[name], problem = _checked(given[name], shapes[name], dtype)
        problem = problem or op.refuses(own, checked[name]) or beyond(checked[name], op.storage)
        if problem:
            problems.append(f"{name}: {problem}")
    return checked, sorted(problems)


def _nearest(name: str, shape: Shape, unknown: Mapping[str, Any]) -> str:
    """Return which unknown weight may be meant by a name: of the same shape, if there are any."""
    same = [n for n, a in unknown.items() if getattr(a, "shape", None) == shape]
    ends = [n for n in same if str(n).endswith(name.rpartition(".")[2])]
    found = difflib.get_close_matches(name, map(str, ends or same or unknown), 1, 0.3)
    return f" (did you mean {found[0]}?)" if found else ""


def _checked(given: Any, shape: Shape, dtype: np.dtype[Any]) -> tuple[Array, str]:
    """Return `given` as a read-only copy, and what is wrong with it (or nothing)."""
    empty = np.empty(0, np.float32)
    try:
        array = np.asarray(given)
    except Exception as error:  # a foreign tensor may refuse in ways of its own
        return empty, f"expected an array of shape {shape}, got {describe(given)} ({error})"
    if array.dtype != dtype and array.dtype.kind != "f":
        return empty, f"expected floating-point numbers, got {array.dtype}"
    if array.shape != shape:
        return empty, f"expected shape {shape}, got {array.shape}"
    if array.dtype != np.int8 and not np.isfinite(array).all():
        return empty, "holds a NaN or an infinity"
    with np.errstate(over="ignore", invalid="ignore"):
        copy = np.array(array, dtype, order="C")
    if copy.dtype == np.int8 and copy.dtype != array.dtype and not np.array_equal(copy, array):
        return empty, "holds numbers that are no whole ones from -128 to 127"
    if copy.dtype == np.float32 and copy.dtype != array.dtype and not np.isfinite(copy).all():
        return empty, "holds a number beyond the range of float32"
    copy.flags.writeable = False
    return copy, ""


class Sequential(Layer):
    """Layers one after another; the output of each is the input of the next.

    Parameters
    ----------
    *layers : Layer or Value
        The layers. An :func:`Input` may stand first, to say the shape of a frame where the first
        layer does not.
    name : str, optional
        Prefix of the weights' names when the stack is part of another.

    Raises
    ------
    ConfigError
        If something else than a layer is given.
    """

    def __init__(self, *layers: Layer | Value, name: str | None = None) -> None:
        self.name = name
        self._input = layers[0] if layers and isinstance(layers[0], Value) else None
        rest = layers[1:] if self._input is not None else layers
        for i, layer in enumerate(rest):
            if not isinstance(layer, Layer):
                raise ConfigError(
                    f"Sequential: item {i} must be a layer, got {describe(layer)}"
                    + (" (a class: call it)" if isinstance(layer, type) else "")
                )
        self.layers: tuple[Layer, ...] = tuple(layer for layer in rest if isinstance(layer, Layer))
        if not self.layers:
            raise ConfigError("Sequential: needs at least one layer")
        prefixes = self._prefixes()
        for prefix in prefixes:
            if prefixes.count(prefix) > 1:
                raise ConfigError(
                    f"Sequential: two layers would be called {prefix!r}; give one another name"
                )

    def __repr__(self) -> str:
        return f"Sequential({', '.join(map(repr, self.layers))})"

    def __call__(self, *values: Value) -> Value:
        if len(values) != 1:
            raise GraphError(f"Sequential takes one value, got {len(values)}")
        stated = self._input
        if stated is not None and (stated.shape, stated.dtype) != (
            values[0].shape,
            values[0].dtype,
        ):
            raise GraphError(
                f"Sequential expects {stated.dtype} frames of shape {stated.shape}, "
                f"got {values[0].dtype} {values[0].shape}"
            )
        return functools.reduce(lambda value, layer: layer(value), self.layers, values[0])

    def input_values(self) -> tuple[Value, ...]:
        return (self._input,) if self._input is not None else self.layers[0].input_values()

    def named_parameters(self) -> dict[str, tuple[Op, str]]:
        return {
            f"{prefix}.{name}": where
            for prefix, layer in zip(self._prefixes(), self.layers, strict=True)
            for name, where in layer.named_parameters().items()
        }

    def _prefixes(self) -> list[str]:
        """Return what each layer's weights are called by: its name, or its position as in torch."""
        return [getattr(layer, "name", None) or str(i) for i, layer in enumerate(self.layers)]


def _by_name(values: Any, letter: str) -> dict[str, Value]:
    if isinstance(values, Value):
        return {letter: values}
    if isinstance(values, Mapping):
        named = dict(values)
    elif isinstance(values, Sequence):
        named = {f"{letter}_{i}": v for i, v in enumerate(values)}
    else:
        named = {letter: values}
    for name, value in named.items():
        if not isinstance(value, Value) or not isinstance(name, str):
            raise ConfigError(f"Model: {name!r} must be a symbolic value, got {describe(value)}")
    return named


class Model(Layer):
    """A graph of layers, from symbolic inputs to outputs.

    Parameters
    ----------
    inputs : Value, sequence or dict of Value
        What goes in each step; a dict names them (else ``x`` or ``x_0``, ``x_1``, …).
    outputs : Value, sequence or dict of Value
        What comes out (else ``y`` or ``y_0``, …). A stream of a model with several returns a tuple.
    metadata : dict, optional
        What whoever runs the model must know: texts to anything that JSON can say. It is kept in
        the model's files; ``sample_rate``, ``labels`` and ``features`` have a meaning, see
        :mod:`streamrnn.metadata`.
    feedback : dict of Value to Value, optional
        For each value of a :class:`Past`, the value that it takes in the end of a frame.

    Raises
    ------
    ConfigError, GraphError
        If these are not symbolic values, or do not make a graph (see :class:`Graph`).
    """

    def __init__(
        self,
        inputs: Value | Sequence[Value] | Mapping[str, Value],
        outputs: Value | Sequence[Value] | Mapping[str, Value],
        metadata: Mapping[str, Any] | None = None,
        feedback: Mapping[Value, Value] | None = None,
    ) -> None:
        self._graph = Graph(_by_name(inputs, "x"), _by_name(outputs, "y"), dict(feedback or {}))
        self.metadata = checked_metadata(metadata, self._graph, "Model")

    def __repr__(self) -> str:
        shapes = {name: value.shape for name, value in self._graph.inputs.items()}
        return f"Model({len(self._graph.nodes)} ops, inputs {shapes})"

    def __call__(self, *values: Value) -> Value:
        from .ops.past import Past

        inputs, outputs = list(self._graph.inputs.values()), list(self._graph.outputs.values())
        if len(outputs) != 1:
            raise GraphError("a model with several outputs cannot be used as a layer")
        wanted, got = [v.shape for v in inputs], [v.shape for v in values]
        if wanted != got:
            raise GraphError(f"{self!r} takes shapes {wanted}, got {got}")
        made = {id(old): new for old, new in zip(inputs, values, strict=True)}
        for node in self._graph.nodes:
            made[id(node.value)] = node.op(*(made[id(arg)] for arg in node.args))
        for past, new in self._graph.feedback.items():
            Past.feed(made[id(past)], made[id(new)])
        return made[id(outputs[0])]

    def graph(self) -> Graph:
        return self._graph

    def input_values(self) -> tuple[Value, ...]:
        return tuple(Input(v.shape, v.dtype) for v in self._graph.inputs.values())

    def named_parameters(self) -> dict[str, tuple[Op, str]]:
        return self._graph.parameters()
