"""An exported graph of torch, run once with symbols.

The graph is read for sequences of one length, a prime, so that a number in a shape that is this
length is the time axis, as in ``importers/onnx``; the tensors are those of that importer: known
(here torch tensors, computed by torch itself), a ``Value``, or a ``Timed``. What an operator of
torch's means is said in ``operators/``, in terms of ONNX's operators, whose handlers know what each
means where frames come one after another.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from ...errors import ConversionError, StreamrnnError
from ...graph import MAX_FRAME, Input, Value
from ...layer import Model
from ...ops.past import Past
from ..onnx.inputs import frame_shape
from ..onnx.node import OPERATORS, Known, Tensor, Timed, Unsupported, reshaped
from ..onnx.time import aligned, over_frames, settled
from . import operators  # noqa: F401 (they fill the table)
from .capture import Captured
from .table import ATEN, CONSTANTS

__all__ = ["Walk"]

OPSET = 23
"""Of ONNX, as which its handlers read what ``operators/`` says."""
IGNORED = {
    "copy",
    "device",
    "generator",
    "implicit",
    "layout",
    "memory_format",
    "non_blocking",
    "pin_memory",
}
"""Arguments that change no result here."""


class Walk:
    """The graph, run once with symbols; an operator's function gets it as its first argument.

    Parameters
    ----------
    captured : Captured
        The exported module, and what it takes.
    """

    def __init__(self, captured: Captured) -> None:
        self.captured = captured
        self.feedback: dict[Value, Value] = {}
        self.inputs: dict[str, Value] = {}
        self.states: dict[str, Value] = {}
        self.values: dict[Any, Any] = {}
        """What each node of the graph has become."""
        self.output_axes: list[int | None] = []
        self.node: Any = None
        """The node that is being read."""
        self._names: set[str] = set()
        self._run()

    def __call__(
        self,
        kind: str,
        *args: Tensor,
        n: int = 1,
        wanted: Sequence[bool] | None = None,
        **attributes: Any,
    ) -> Any:
        """Return what ONNX's operator `kind` makes of tensors; known ones are arrays.

        It has `n` outputs, of which `wanted` says which are read by anything.
        """
        given = [array_of(x) if isinstance(x, torch.Tensor) else x for x in args]
        a = Known(attributes, OPSET, self.name(), self.feedback, None, self._reserve)
        a.kinds = [self._kind()]
        a.wanted = (True,) * n if wanted is None else tuple(wanted)
        states = len(self.feedback)
        timed = any(isinstance(x, Timed) for x in given)
        made = over_frames(kind, a, n, given) if timed else OPERATORS[kind].handler(a, n, *given)
        a.all_used()
        if len(self.feedback) > states:
            self._names.add(a.name)
        return made

    def name(self) -> str:
        """Return a name for what the node keeps: its module's, or what it is."""
        path = self.module_path() or type(self.captured.module).__name__.lower()
        base = name = "_".join(re.findall(r"\w+", path))
        k = 0
        while name in self._names:
            k += 1
            name = f"{base}_{k}"
        return name

    def uses(self, k: int) -> bool:
        """Whether result k of the node is read by anything."""
        return any(user.args[1] == k and user.users for user in self.node.users)

    def keeps(self) -> Known:
        """Return what makes states that are called after the node's module."""
        a = Known({}, OPSET, self.name(), self.feedback)
        self._names.add(a.name)
        return a

    def module_path(self) -> str:
        """Return where in the module the node comes from: ``encoder.conv1``."""
        return path_of(self.node)

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the node's result, with the whole sequence."""
        return tuple(self.node.meta["val"].shape)

    @property
    def shapes(self) -> list[tuple[int, ...]]:
        """The shapes of the node's results, where there are several."""
        return [tuple(v.shape) for v in self.node.meta["val"]]

    @property
    def dtype(self) -> Any:
        """The type of the node's result."""
        return self.node.meta["val"].dtype

    @property
    def operator(self) -> str:
        """The node's operator: ``std``."""
        return str(self.node.target._schema.name).removeprefix("aten::")

    @property
    def sequence(self) -> bool:
        """Whether the module takes a sequence of frames, rather than one frame."""
        return any(axis is not None for _, _, axis in self.captured.inputs)

    @property
    def length(self) -> int:
        """Frames in the sequences that the module was exported for."""
        axes = [(x, axis) for _, x, axis in self.captured.inputs if axis is not None]
        return int(axes[0][0].shape[axes[0][1]]) if axes else 1

    def computes_with_floats(self) -> None:
        """Refuse integers and truths."""
        if self._kind() != "float":
            raise Unsupported("among integers this operator is not supported")

    def _kind(self) -> str:
        """Return what the node computes with: ``float``, ``int`` or ``bool``."""
        for arg in self.node.all_input_nodes:
            dtype = getattr(arg.meta.get("val"), "dtype", torch.float32)
            if dtype.is_floating_point:
                return "float"
            if dtype != torch.bool:
                return "int"
        return "float"

    def _reserve(self, size: int) -> None:
        if not 0 <= size <= MAX_FRAME:
            raise Unsupported(f"would make {size} numbers, which are too many")

    def _run(self) -> None:
        """Give every node of the graph its meaning."""
        program = self.captured.program
        constants = program.constants | program.state_dict
        targets = {
            s.arg.name: s.target
            for s in program.graph_signature.input_specs
            if s.target is not None
        }
        free = iter(self.captured.inputs)
        for node in program.graph.nodes:
            if node.op == "placeholder":
                kept = targets.get(node.name)
                self.values[node] = self._input(*next(free)) if kept is None else constants[kept]
            elif node.op == "call_function":
                self.values[node] = self._read(node)
            elif node.op == "output":
                made = self._of(node.args[0])
                self.results: list[Any] = [r for r in made if r is not None]
            else:
                raise ConversionError(f"{node.name}: `{node.op}` of torch.fx is not supported")

    def _input(self, name: str, example: Any, axis: int | None) -> Any:
        """Return an input of the module as a sequence, a frame or a state."""
        if not isinstance(example, torch.Tensor):
            return example
        shape = tuple(example.shape)
        if name in self.captured.states:
            self.states[name] = past = Past(shape, name=name)()
            return past
        whole = shape if axis is None else (*shape[:axis], 1, *shape[axis + 1 :])
        kind = "float32" if example.dtype.is_floating_point else "int64"
        frame = Input(frame_shape(whole, axis), kind)
        self.inputs[name] = frame
        value = reshaped(frame, whole)
        return value if axis is None else Timed(value, axis, shape[axis])

    def _read(self, node: Any) -> Any:
        """Return what one operator of the graph makes; errors name the module."""
        self.node = node
        try:
            return self._applied(node)
        except (Unsupported, StreamrnnError) as reason:
            raise ConversionError(f"{described(node)}: {reason}") from None
        except Exception as error:  # an operator that is used as no other module uses it
            raise ConversionError(f"{described(node)}: cannot be read: {error!r}") from error

    def _applied(self, node: Any) -> Any:
        args, kwargs = self._of(node.args), self._of(dict(node.kwargs))
        if node.target is operator.getitem:
            return args[0][args[1]]
        schema = getattr(node.target, "_schema", None)
        if schema is None:
            raise Unsupported(f"{node.target} is not supported")
        name = schema.name.removeprefix("aten::")
        if name == "_assert_tensor_metadata":  # what torch's exporter puts before a conversion
            return None
        if not _symbolic((args, kwargs)):
            return node.target(*args, **kwargs)
        if name in CONSTANTS:
            return node.target(*(_emptied(x) for x in args), **kwargs)
        found = ATEN.get(name)
        if found is None:
            raise Unsupported(f"the operator {node.target} is not supported")
        bound = {a.name: a.default_value for a in schema.arguments if a.has_default_value()}
        bound |= dict(zip((a.name for a in schema.arguments), args, strict=False)) | kwargs
        renamed = {("x" if k in ("self", "input") else k): v for k, v in bound.items()}
        dtype = renamed.pop("dtype", None) if name not in ("to", "_to_copy") else None
        if dtype not in (None, torch.float32):
            raise Unsupported(f"dtype={dtype} is not supported, only torch.float32")
        return found(self, **{k: v for k, v in renamed.items() if k not in IGNORED})

    def _of(self, tree: Any) -> Any:
        """Return arguments with every node replaced by what it has become."""
        if isinstance(tree, torch.fx.Node):
            return self.values[tree]
        if isinstance(tree, Mapping):
            return {k: self._of(v) for k, v in tree.items()}
        if isinstance(tree, (list, tuple)):
            return [self._of(v) for v in tree]
        return tree

    def model(self) -> Model:
        """Return the module as a model, states fed back."""
        results = list(self.results)
        names = self.captured.output_names
        if self.states:
            count = len(self.states)
            for (name, past), new in zip(
                self.states.items(), results[len(results) - count :], strict=True
            ):
                self.feedback[past] = _fed_back(name, past, new)
            if len(results) > count:
                results, names = results[:-count], names[:-count]
            else:  # a cell: its first state is what comes out
                results, names = results[:1], names[:1]
        names = ["y"] if len(names) == 1 else names
        outputs = []
        for name, result in zip(names, results, strict=True):
            value = settled(result).value if isinstance(result, Timed) else result
            if not isinstance(value, Value):
                raise ConversionError(f"output {name!r} does not depend on any input")
            axis = result.axis if isinstance(result, Timed) else None
            self.output_axes.append(axis)
            outputs.append(reshaped(value, frame_shape(value.shape, axis)))
        made = dict(zip(names, aligned(outputs), strict=True))
        return self.model_of(made)

    def model_of(self, outputs: dict[str, Value]) -> Model:
        """Return a model of some values; of the states only those on which they depend."""
        todo, seen = list(outputs.values()), set()
        while todo:
            value = todo.pop()
            if value not in seen:
                seen.add(value)
                todo += [*value.args, *([self.feedback[value]] if value in self.feedback else [])]
        needed = {past: new for past, new in self.feedback.items() if past in seen}
        return Model(self.inputs, outputs, feedback=needed)


def _fed_back(name: str, past: Value, new: Any) -> Value:
    value = new.value if isinstance(new, Timed) and new.axis is None else new
    if not isinstance(value, Value) or value.shape != past.shape:
        got = getattr(new, "shape", None)
        raise ConversionError(
            f"state {name!r} has the shape {past.shape}, but the output in its place has "
            f"{got}: return the new states last, in the order in which they come in"
        )
    return value


def path_of(node: Any) -> str:
    """Return the innermost module that a node comes from."""
    stack = list(node.meta.get("nn_module_stack", {}).values())
    return str(stack[-1][0]) if stack else ""


def described(node: Any) -> str:
    """Return a node as messages name it: its module and its operator."""
    stack = list(node.meta.get("nn_module_stack", {}).values())
    path, kind = stack[-1] if stack else ("", "")
    kind = kind if isinstance(kind, str) else kind.__name__
    where = path or "the module itself"
    return f"{where} ({kind.rsplit('.', 1)[-1]}, {node.target})"


def _symbolic(tree: Any) -> bool:
    """Whether a tree of arguments holds what depends on the frame."""
    if isinstance(tree, Mapping):
        return any(map(_symbolic, tree.values()))
    if isinstance(tree, (list, tuple)):
        return any(map(_symbolic, tree))
    return isinstance(tree, (Value, Timed))


def _emptied(x: Any) -> Any:
    """Return a tensor of the shape of one whose content does not matter."""
    return torch.zeros(x.shape) if isinstance(x, (Value, Timed)) else x


def array_of(x: Any) -> Any:
    """Return a torch tensor as an array."""
    return x.detach().cpu().numpy()
