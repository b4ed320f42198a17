"""The base of every op: what one file in this folder has to say, and nothing else.

An op is a dataclass whose fields are its constructor's arguments (they are also what a file keeps).
It answers six questions: which weights, which states, which shape comes out, the plain equations
(``reference``), the rows of the tape (``lower``) and the form in ONNX (``onnx``). Everything else
in the library works through these answers and knows no op by name.
"""

from __future__ import annotations

import contextlib
import math
import operator
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import numpy.typing as npt

from ..errors import ConfigError, GraphError, StateError, WeightError
from ..graph import Clock, Input, Shape, Value, as_shape, describe
from ..layer import Changes, Layer, check_weights
from ..narrow import STORAGES, NarrowWeights

if TYPE_CHECKING:
    from ..program import Location, Lowering
    from .recorder import Recorder

__all__ = ["REGISTRY", "Arrays", "Op"]

Array = npt.NDArray[Any]
Arrays = dict[str, Array]
"""Weights or states of one op, by name."""

REGISTRY: dict[str, type[Op]] = {}
"""Every op by the name that files use: the class's own."""

MAX_WEIGHT_BYTES = 1 << 33
MAX_INT = 1 << 40
MAX_FLOAT = float(np.finfo(np.float32).max)


class _Rates(Layer):
    """What an op's constructor may set beside its arguments; no fields of the dataclass."""

    stride_frames: int = 1
    """Input frames per output frame."""

    channel_axis: int | None = 0
    """Axis of an output frame whose channels `scaled` multiplies, for an op that has it."""

    moves_only: bool = False
    """Whether the op moves numbers and changes none, so that indices may go through it."""

    sums_to_one: bool = False
    """Whether the numbers of an output are probabilities."""

    takes_feedback: bool = False
    """Whether a model has to say, in its `feedback`, what the op's value takes."""

    between_frames: bool = False
    """Whether an output may be due when no input is there; the reference then gets None for it."""

    index_limit: int | None = None
    """For an op that reads indices: the number of valid ones."""


@dataclass(eq=False)
class Op(_Rates):
    """One op: equations, weights and state.

    Parameters
    ----------
    name : str, optional
        Name in a model; states and weights are called ``name.h``, ``name.weight_ih``. Without one
        the model numbers its ops: ``lstm_0``.
    seed : int, optional
        Makes the random initial weights reproducible.
    """

    name: str | None = field(default=None, kw_only=True, repr=False)
    seed: int | None = field(default=None, kw_only=True, repr=False)

    prefix: ClassVar[str] = ""
    """What a model's numbering begins with; the class's name in lower case unless set."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        known = REGISTRY.get(cls.__name__)
        if known is not None and (known.__module__, known.__qualname__) != (
            cls.__module__,
            cls.__qualname__,
        ):
            raise ConfigError(f"an op named {cls.__name__} exists already: {known.__module__}")
        if "prefix" not in cls.__dict__:
            cls.prefix = cls.__name__.lower()
        if cls.lower is not Op.lower and not cls.__name__.startswith("_"):
            REGISTRY[cls.__name__] = cls

    def __post_init__(self) -> None:
        for name, kind in _arguments(self):
            setattr(self, name, _argument(self, name, kind, getattr(self, name)))
        if not (self.name is None or (isinstance(self.name, str) and self.name)):
            raise ConfigError(
                f"{type(self).__name__}: `name` must be a text or None, got {self.name!r}"
            )
        check_seed(type(self).__name__, self.seed)
        self.check()

    # What an op says about itself ------------------------------------------------------------

    def check(self) -> None:
        """Raise ConfigError where the arguments, each of its own type, make no sense together."""

    def parameter_shapes(self) -> dict[str, Shape]:
        """Return the shape of every weight, by torch's name."""
        return {}

    def multiply_adds(self, *shapes: Shape) -> int:
        """Return the products of a frame, given the shapes of the inputs; those of matrices only.

        A weight with several axes is a matrix, outputs first, and is applied as often as its rows
        fit into the output: a convolution at every position.
        """
        size = math.prod(self.output_shape(*shapes))
        matrices = [shape for shape in self.parameter_shapes().values() if len(shape) > 1]
        return sum(math.prod(shape) * max(1, size // shape[0]) for shape in matrices)

    def needs_float32(self) -> str:
        """Return why matrices cannot be kept in two bytes, or nothing: see :attr:`storage`."""
        return f"{type(self).__name__} has no form with weights of two bytes"

    def refuses(self, name: str, weight: Array) -> str:
        """Return what is wrong with the values of a weight, or nothing."""
        return ""

    def state_shapes(self, *shapes: Shape) -> dict[str, Shape]:
        """Return the shape of every state, given the shapes of the inputs."""
        return {}

    def output_shape(self, *shapes: Shape) -> Shape:
        """Return the shape of an output frame; raise GraphError if the inputs do not fit."""
        raise NotImplementedError

    def input_shapes(self) -> tuple[Shape, ...] | None:
        """Return the shapes of the inputs where the op alone fixes them, else None."""
        return None

    def initial_weight(self, name: str, shape: Shape, rng: np.random.Generator) -> Array:
        """Return the random weight that training would begin with."""
        raise NotImplementedError

    def reference(self, weights: Arrays, states: Arrays, *xs: Array) -> Array:
        """Compute one frame in float64 from the plain equations; put new states into `states`."""
        raise NotImplementedError

    def lower(self, tape: Lowering, *xs: Location) -> Location:
        """Pack the weights, write the tape's rows, and return where the output lies."""
        raise NotImplementedError

    def onnx(self, g: Recorder, *xs: str) -> str:
        """Write the op for values of shape (T, N, *frame), and return the output's name."""
        raise NotImplementedError

    # What follows from it --------------------------------------------------------------------

    def receptive_field(self, *shapes: Shape) -> int | None:
        """Return how many frames of the op's input one output depends on; None: on all so far."""
        return None if self.state_shapes(*shapes) else 1

    def config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        return {name: getattr(self, name) for name, _ in _arguments(self)}

    @property
    def weights(self) -> Mapping[str, Array]:
        """The weights, float32 and read-only; random ones are made when first asked for."""
        kept: Mapping[str, Array] | None = self.__dict__.get("_weights")
        if kept is None:
            kept = self.__dict__["_weights"] = self._as_stored(self._random_weights())
        return kept

    @weights.setter
    def weights(self, arrays: Mapping[str, Array]) -> None:
        checked, problems = check_weights(self.named_parameters(), arrays)
        if problems:
            raise WeightError(f"{self!r} cannot take these weights: {'; '.join(problems)}")
        self.__dict__["_weights"] = self._as_stored(checked)
        Changes.count += 1

    def _as_stored(self, weights: Mapping[str, Array]) -> Mapping[str, Array]:
        return weights if self.storage == "float32" else NarrowWeights(weights, self.storage)

    @property
    def storage(self) -> str:
        """How matrices are kept in memory and files: float32, or float16 or bfloat16.

        Setting it rounds the weights, to the nearest number; weights that come later are rounded
        too. They are widened where they are used, so results are those of a float32 op with the
        rounded weights, bit for bit. Vectors (biases) stay float32.

        Raises
        ------
        ConfigError
            If there is no such storage, or the op has no form with weights of two bytes.
        WeightError
            If a weight is beyond the range of the numbers.
        """
        return str(self.__dict__.get("_storage", "float32"))

    @storage.setter
    def storage(self, storage: str) -> None:
        if storage not in STORAGES:
            raise ConfigError(
                f"{self!r}: `storage` must be one of {', '.join(map(repr, STORAGES))}, "
                f"got {storage!r}"
            )
        if storage != "float32" and (reason := self.needs_float32()):
            raise ConfigError(
                f"{self!r}: `storage` can only be 'float32', got {storage!r}: {reason}"
            )
        before, weights = self.storage, self.__dict__.get("_weights")
        self.__dict__["_storage"] = storage
        if weights is not None:
            try:
                self.weights = weights
            except WeightError:
                self.__dict__["_storage"] = before
                raise

    def stored_bytes(self) -> int:
        """Return the bytes that the weights take."""
        wide = 4 if self.storage == "float32" else 2
        return sum(
            math.prod(shape) * (1 if name.endswith("_int8") else wide if len(shape) > 1 else 4)
            for name, shape in self.parameter_shapes().items()
        )

    def _random_weights(self) -> Mapping[str, Array]:
        shapes = self.parameter_shapes()
        if not shapes:
            return {}
        total = 4 * sum(math.prod(shape) for shape in shapes.values())
        if total > MAX_WEIGHT_BYTES:
            raise ConfigError(
                f"{self!r} would need {total / 2**30:.1f} GiB of weights; "
                f"the limit is {MAX_WEIGHT_BYTES >> 30} GiB"
            )
        rng = np.random.default_rng(self.seed)
        made = {}
        for name, shape in shapes.items():
            dtype = np.int8 if name.endswith("_int8") else np.float32
            made[name] = np.asarray(self.initial_weight(name, shape, rng), dtype)
            made[name].flags.writeable = False
        return made

    @property
    def initial_state(self) -> Mapping[str, Array]:
        """States that do not begin at zero, by name; set it to a trained initial state."""
        return MappingProxyType(self.contents()[1])

    @initial_state.setter
    def initial_state(self, arrays: Mapping[str, Any]) -> None:
        copies = {name: np.array(array, np.float32) for name, array in arrays.items()}
        for name, array in copies.items():
            if not np.isfinite(array).all():
                raise StateError(f"{self!r}: initial state {name!r} must be finite")
            array.flags.writeable = False
        self.__dict__["_initial_state"] = copies
        Changes.count += 1

    def contents(self) -> tuple[Any, dict[str, Array]]:
        """Return weights and initial states: the very objects, which a change replaces."""
        return self.weights, self.__dict__.setdefault("_initial_state", {})

    def input_values(self) -> tuple[Value, ...]:
        shapes = self.input_shapes()
        if shapes is None:
            return super().input_values()
        return tuple(Input(s, "int64" if self.index_limit else "float32") for s in shapes)

    def named_parameters(self) -> dict[str, tuple[Op, str]]:
        return {name: (self, name) for name in self.parameter_shapes()}

    def clock(self, *clocks: Clock) -> Clock:
        """Return when the output is there, given when the inputs are."""
        if any(c is not clocks[0] and c != clocks[0] for c in clocks):
            raise GraphError(
                f"{self!r}: its inputs come at different rates: {', '.join(map(str, clocks))}"
            )
        return clocks[0].every(self.stride_frames)

    def __call__(self, *values: Value) -> Value:
        if not values:
            raise GraphError(f"{self!r} needs a value to read")
        dtype = "int64" if self.index_limit else "float32"
        for value in values:
            if not isinstance(value, Value):
                raise GraphError(
                    f"{self!r} is called on symbolic values to build a model, got "
                    f"{describe(value)}; a frame goes to `step`"
                )
            if value.dtype != dtype and not self.moves_only:
                raise GraphError(f"{self!r} reads {dtype} values, got {value.dtype}")
        shape = self.output_shape(*(v.shape for v in values))
        kept = values[0].dtype if self.moves_only else "float32"
        return Value(shape, self.clock(*(v.clock for v in values)), kept, self, values)

    def expect(self, got: Shape, expected: Shape) -> None:
        """Raise GraphError unless a frame's shape is the expected one."""
        if got != expected:
            raise GraphError(f"{self!r} expects frames of shape {expected}, got {got}")

    def at_least(self, **limits: int) -> None:
        """Raise ConfigError if an integer argument is below its limit."""
        for name, low in limits.items():
            if getattr(self, name) < low:
                raise ConfigError(
                    f"{type(self).__name__}: `{name}` must be an integer of at least {low}, "
                    f"got {getattr(self, name)}"
                )


def check_seed(who: str, seed: Any) -> None:
    """Raise ConfigError unless a seed is a non-negative integer or None."""
    integer = isinstance(seed, (int, np.integer)) and not isinstance(seed, bool)
    if seed is not None and not (integer and seed >= 0):
        raise ConfigError(f"{who}: `seed` must be a non-negative integer or None, got {seed!r}")


_WANTED = {
    "bool": "True or False",
    "int": "an integer below 2**40",
    "float": "a finite number",
    "str": "a text",
    "Sequence[int]": "a tuple of integers",
}


_ARGUMENTS: dict[type, tuple[tuple[str, Any], ...]] = {}


def _arguments(op: Op) -> tuple[tuple[str, Any], ...]:
    """Return the constructor's arguments and their types, without name and seed."""
    if type(op) not in _ARGUMENTS:
        own = tuple((f.name, f.type) for f in fields(op) if not f.kw_only)
        _ARGUMENTS[type(op)] = own
    return _ARGUMENTS[type(op)]


def _argument(op: Op, name: str, kind: Any, value: Any) -> Any:
    """Return a constructor's argument as its annotation wants it, or raise ConfigError."""
    kind = kind if isinstance(kind, str) else getattr(kind, "__name__", str(kind))
    if kind == "int | Sequence[int]":
        return as_shape(value, type(op).__name__)
    if kind == "bool" and isinstance(value, (bool, np.bool_)):
        return bool(value)
    if kind == "str" and isinstance(value, str):
        return value
    with contextlib.suppress(TypeError):
        if kind == "Sequence[int]":
            return tuple(map(operator.index, value))
        if kind == "int" and not isinstance(value, bool) and abs(operator.index(value)) < MAX_INT:
            return operator.index(value)
        if kind == "float" and not isinstance(value, (bool, str)) and abs(value) <= MAX_FLOAT:
            return float(value)
    if kind not in _WANTED:
        return value
    raise ConfigError(f"{type(op).__name__}: `{name}` must be {_WANTED[kind]}, got {value!r}")


def uniform(shape: Shape, bound: float, rng: np.random.Generator) -> Array:
    """Return uniform random numbers in ±bound, as torch initialises most layers."""
    return rng.uniform(-bound, bound, shape).astype(np.float32)
