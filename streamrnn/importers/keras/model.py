"""Sequential and Functional models of Keras as graphs of ours.

A Keras model is made for sequences (batch, time, …): the model here takes one frame, without these
two axes. What Keras computes from a whole sequence (``return_sequences=False``) is what follows
from the sequence so far. A stream keeps its state until ``reset``, so ``stateful`` changes nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, overload

from ...errors import FileError, StreamrnnError, WeightError
from ...graph import Input, Value, describe
from ...layer import Layer, Model
from ...ops.arithmetic import arithmetic
from . import branches, layers, recurrent  # noqa: F401 (fill the table of layers)
from .arrays import converted
from .files import Stored, open_file, parsed
from .flow import LAYERS, Apply, Flow
from .options import Options
from .weights import Weights

__all__ = ["from_keras"]

MAX_LAYERS = 10_000
OPERATIONS = {"Add": "Add", "Subtract": "Sub", "Multiply": "Mul", "TrueDivide": "Div"}
"""Arithmetic of Keras 3 that may have a number in it, and what it is here."""


@overload
def from_keras(
    source: str | Path | BinaryIO, model: Layer, *, ignore_masks: bool = ...
) -> Layer: ...


@overload
def from_keras(
    source: str | Path | BinaryIO,
    model: Mapping[str, Any] | str | None = ...,
    *,
    ignore_masks: bool = ...,
) -> Model: ...


def from_keras(
    source: str | Path | BinaryIO,
    model: Layer | Mapping[str, Any] | str | None = None,
    *,
    ignore_masks: bool = False,
) -> Layer:
    """Read a Keras model, or the weights of one, without Keras.

    Parameters
    ----------
    source : str, Path or binary file
        A ``.keras`` archive, a ``.h5`` file of Keras 2 or 3, or a file of weights only.
    model : Layer, mapping or str, optional
        For a file of weights only, the architecture: layers of ours, named as the file's groups
        (they get the weights), or Keras' own configuration (``model.to_json()``).
    ignore_masks : bool
        Whether ``Masking`` and ``mask_zero`` may be left out, because the stream is never fed with
        padding; else they are an error.

    Returns
    -------
    Layer
        A model that takes frames without the axes of batch and time; `model` itself if given as
        layers.

    Raises
    ------
    FileError
        If the file is missing or damaged, refers to others, or holds a layer or an option that
        cannot be streamed, is not known, or is code (``Lambda``, custom objects).
    WeightError
        If the weights are not those of the `model` given.
    """
    where = str(source) if isinstance(source, (str, Path)) else "the Keras file"
    try:
        with open_file(source) as stored:
            if isinstance(model, Layer):
                _give(model, stored.weights)
                return model
            return _built(_architecture(stored, model), stored, ignore_masks)
    except OSError as error:
        raise FileError(f"cannot read {where}: {error.strerror or error}") from None
    except StreamrnnError as error:
        kind = WeightError if isinstance(error, WeightError) else FileError
        raise kind(f"{where}: {error}") from None


def _give(model: Layer, weights: Weights) -> None:
    """Give layers of ours the weights of the groups that have their names."""
    found = weights.all()
    ops = {n.name: n.op for n in model.graph().nodes if n.op.parameter_shapes()}
    missing, extra = sorted(ops.keys() - found.keys()), sorted(found.keys() - ops.keys())
    if missing or extra:
        raise WeightError(
            f"the file's groups and the model's layers have other names: no group for "
            f"{', '.join(missing) or 'none'}; no layer for {', '.join(extra) or 'none'}"
        )
    ready = {}
    for name, op in ops.items():
        try:
            ready[name] = converted(op, found[name])
        except WeightError as error:
            raise WeightError(f"layer {name!r}: {error}") from None
    for name, op in ops.items():
        op.weights = ready[name]


def _architecture(stored: Stored, model: Any) -> Mapping[str, Any]:
    if model is None:
        if stored.config is None:
            raise FileError(
                "holds weights only: pass the architecture as `model`, in layers of streamrnn or "
                "as Keras' model.to_json()"
            )
        return stored.config
    if isinstance(model, Mapping):
        return model
    if isinstance(model, str):
        return parsed(model, "`model`")
    raise FileError(f"`model` must be a layer, a mapping or JSON, got {describe(model)}")


def _built(config: Mapping[str, Any], stored: Stored, ignore_masks: bool) -> Model:
    """Return the model that a configuration describes."""
    try:
        kind, inner = config["class_name"], config["config"]
        keras = _version_of(config) or stored.keras
        specs = inner if isinstance(inner, list) else inner["layers"]
        if kind not in ("Sequential", "Functional", "Model"):
            raise FileError(f"the model is a {kind!r}: only Sequential and Functional can be read")
        if not specs or len(specs) > MAX_LAYERS:
            raise FileError(f"expected 1 to {MAX_LAYERS} layers, got {len(specs)}")
        reader = _Reader(specs, keras, ignore_masks, stored.weights)
        return reader.sequential() if kind == "Sequential" else reader.functional(inner)
    except (KeyError, TypeError, IndexError, AttributeError, ValueError) as error:
        if isinstance(error, StreamrnnError):
            raise
        raise FileError(f"a damaged configuration: {type(error).__name__}: {error}") from None


def _version_of(config: Mapping[str, Any]) -> int:
    text = str(config.get("keras_version", "0")).split(".")[0]
    return int(text) if text.isdigit() else 0


class _Reader:
    """The layers of a model, each read when it is first called."""

    def __init__(
        self, specs: Sequence[Mapping[str, Any]], keras: int, ignore_masks: bool, weights: Weights
    ) -> None:
        self.specs = {str(spec["config"]["name"]): spec for spec in specs}
        if len(self.specs) != len(specs):
            raise FileError("two layers have one name")
        self.keras, self.ignore_masks = keras, ignore_masks
        for name, spec in self.specs.items():
            with _blamed(name, spec):
                _check_known(spec)
        self.arrays = weights.of(specs)
        self.read: dict[str, Apply] = {}
        self.made: dict[tuple[str, int], Flow] = {}
        self.inputs: dict[str, Value] = {}

    def apply(self, name: str, flows: Sequence[Flow]) -> Flow:
        """Call a layer."""
        spec = self.specs[name]
        with _blamed(name, spec):
            if spec["class_name"] not in LAYERS:
                raise FileError("is not supported")
            if name not in self.read:
                config = {**spec["config"], "ignore_masks": self.ignore_masks}
                options = Options(config, self.keras)
                options.get("ignore_masks")
                self.read[name] = LAYERS[spec["class_name"]](options, self.arrays[name])
                options.finish()
            return self.read[name](flows)

    def input(self, name: str, shape: Any, integers: bool) -> Flow:
        """Return an input (batch, time, …), or (batch, n) without a time axis."""
        if not isinstance(shape, list) or len(shape) < 2:
            raise FileError(f"layer {name!r}: the file does not say the shape of its input")
        timed = integers or len(shape) > 2
        frame = shape[1 + timed :]
        if None in frame:
            raise FileError(f"layer {name!r}: only batch and time of {shape} may be open")
        self.inputs[name] = Input(tuple(frame), "int64" if integers else "float32")
        return Flow(self.inputs[name], timed)

    def sequential(self) -> Model:
        """Return the layers one after another."""
        names = list(self.specs)
        first = self.specs[names[0]]
        is_input = first["class_name"] == "InputLayer"
        rest = names[1:] if is_input else names
        integers = bool(rest) and self.specs[rest[0]]["class_name"] == "Embedding"
        flow = self.input(names[0], _input_shape(first), integers)
        for name in rest:
            flow = self.apply(name, [flow])
        (x,) = self.inputs.values()
        return Model(x, flow.value)

    def functional(self, config: Mapping[str, Any]) -> Model:
        """Return the layers on the way from the inputs to the outputs."""
        calls = {name: list(_calls(spec)) for name, spec in self.specs.items()}
        for name in _ends(config["input_layers"]):
            spec = self.specs[name]
            readers = [n for n, made in calls.items() if any(name in _read(c) for c in made)]
            embedded = any(self.specs[n]["class_name"] == "Embedding" for n in readers)
            self.made[name, 0] = self.input(name, _input_shape(spec), embedded)
        outputs = _ends(config["output_layers"])
        for name, number in outputs.items():
            self._make(name, number, calls)
        values = {name: self.made[name, number].value for name, number in outputs.items()}
        single = len(values) == 1
        return Model(
            next(iter(self.inputs.values())) if len(self.inputs) == 1 else self.inputs,
            next(iter(values.values())) if single else values,
        )

    def _make(self, name: str, number: int, calls: Mapping[str, list[list[Any]]]) -> None:
        """Call a layer in one of its places, and before it those that it reads."""
        stack, waiting = [(name, number)], set()
        while stack:
            place = stack[-1]
            arguments = calls[place[0]][place[1]]
            wanted = [a[:2] for a in arguments if isinstance(a, tuple)]
            missing = [w for w in wanted if w not in self.made]
            if place in self.made:
                stack.pop()
            elif not missing:
                self.made[place] = self._called(place[0], arguments)
            elif place in waiting:
                raise FileError(f"layer {name!r}: the layers read each other in a circle")
            else:
                waiting.add(place)
                stack += missing

    def _called(self, name: str, arguments: Sequence[Any]) -> Flow:
        for argument in arguments:
            if isinstance(argument, tuple) and argument[2] != 0:
                raise FileError(
                    f"layer {name!r} reads a state of {argument[0]!r} (return_state=True), which "
                    f"is not supported: states are in stream.state"
                )
        spec = self.specs[name]
        flows = [self.made[a[:2]] for a in arguments if isinstance(a, tuple)]
        numbers = [a for a in arguments if not isinstance(a, tuple)]
        if not numbers:
            return self.apply(name, flows)
        if spec["class_name"] in OPERATIONS and len(flows) == len(numbers) == 1:
            swap = not isinstance(arguments[0], tuple)
            operation = OPERATIONS[spec["class_name"]]
            if not (swap and operation == "Div"):
                value = arithmetic(operation, flows[0].value, numbers[0], swap)
                return Flow(value, flows[0].timed)
        raise FileError(
            f"layer {name!r} ({spec['class_name']}): the argument {numbers[0]!r} is not supported"
        )


class _blamed:  # noqa: N801 (a context manager, used like a function)
    """Says in every error which layer it is about."""

    def __init__(self, name: str, spec: Mapping[str, Any]) -> None:
        self.who = f"layer {name!r} ({spec.get('class_name')})"

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if isinstance(error, StreamrnnError):
            raise FileError(f"{self.who}: {error}") from None


def _check_known(spec: Mapping[str, Any]) -> None:
    """Raise FileError for a layer that is not Keras' own, or not one that we know."""
    kind, module = spec["class_name"], spec.get("module") or "keras"
    registered = spec.get("registered_name") or ""
    if (
        not str(module).startswith(("keras", "tf_keras", "tensorflow"))
        or ">" in f"{registered}{kind}"
    ):
        raise FileError(
            f"a custom object ({registered or kind}): it is code, and nothing in a file is "
            f"executed; build the model in Python and give it to from_keras as `model`"
        )
    if kind in ("Sequential", "Functional", "Model"):
        raise FileError("a model within a model is not supported: save it with its layers in one")


def _input_shape(spec: Mapping[str, Any]) -> Any:
    config, built = spec["config"], spec.get("build_config") or {}
    for found in (config.get("batch_shape"), config.get("batch_input_shape")):
        if found:
            return found
    return built.get("input_shape")


def _ends(given: Any) -> dict[str, int]:
    """Return places of inputs or outputs by name: of ``[["a", 0, 0], …]`` or ``["a", 0, 0]``."""
    if isinstance(given, Mapping):
        given = list(given.values())
    listed = [given] if given and isinstance(given[0], str) else given
    for name, _, which in listed:
        if which:
            raise FileError(
                f"a state of {str(name)!r} is an output: in a stream it is in `stream.state`"
            )
    ends = {str(name): int(number) for name, number, *_ in listed}
    if len(ends) != len(listed):
        raise FileError("one layer is an output twice")
    return ends


def _calls(spec: Mapping[str, Any]) -> Iterator[list[Any]]:
    """Yield what a layer reads in each of its places: (name, place, which output), or numbers."""
    for node in spec.get("inbound_nodes", ()):
        if isinstance(node, Mapping):  # Keras 3
            kwargs = _without_modes(node["kwargs"])
            yield [*_tensors(node["args"]), *_tensors(list(kwargs.values()))]
            continue
        listed = [node] if node and isinstance(node[0], str) else node
        found: list[Any] = []
        for name, number, which, *rest in listed:
            found.append((str(name), int(number), int(which)))
            kwargs = {k: v for k, v in (rest[0] if rest else {}).items() if v is not None}
            found += _without_modes(kwargs).values()
        yield found


def _without_modes(kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of a call but `mask` and `training`, which must change nothing."""
    if kwargs.get("training"):
        raise FileError("it is called with training=True: a stream is evaluation")
    if kwargs.get("mask") is not None:
        raise FileError("it is called with a mask: a stream has no frames to skip")
    return {k: v for k, v in kwargs.items() if k not in ("mask", "training")}


def _tensors(given: Any) -> Iterator[Any]:
    """Yield the symbolic tensors and numbers in the arguments of a call."""
    for item in given:
        if isinstance(item, Mapping) and item.get("class_name") == "__keras_tensor__":
            name, number, which = item["config"]["keras_history"]
            yield (str(name), int(number), int(which))
        elif isinstance(item, list):
            yield from _tensors(item)
        elif item is not None:
            yield item


def _read(call: Sequence[Any]) -> set[str]:
    return {a[0] for a in call if isinstance(a, tuple)}
