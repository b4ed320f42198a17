"""ONNX graphs read as streaming models: a step with its states, or a whole sequence.

The graph is *run once with symbols*: every tensor is either known (an initializer, or computed from
known ones by ONNX's reference evaluator) or a symbolic value of ours with a fixed shape. Shapes,
conditions and indices are therefore plain numbers by the time an operator needs them, and an ``If``
is its branch. A state input becomes a ``Past``, which takes the state output that belongs to it.

A graph over sequences, whose time axis is open, is read for a single frame; its recurrent nodes
become cells that keep their state. That this is the same function is not taken for granted: the
model is held against the whole graph in onnxruntime, on a random sequence.

What an operator means is said in ``onnx_ops.py``. No file but the graph's is opened, no memory is
taken before its size has been checked, and what is not known is an error that names the node.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import AttributeProto, FunctionProto, GraphProto, ModelProto, NodeProto, TensorProto

from ...errors import FileError, StreamrnnError
from ...graph import MAX_FRAME, Graph, Input, Shape, Value, describe
from ...layer import Model
from ...metadata import checked_metadata, from_texts
from ...ops.align import Align
from ...ops.past import Past
from ...program import fingerprint
from . import operators  # noqa: F401 (fills the table of operators)
from .functions import written_out
from .inputs import fixed_length, frame_shape, input_shape
from .kinds import kind_of_array, kinds_made
from .known import (
    COMPUTED,
    MAX_COMPUTED,
    attribute_constant,
    check_stored,
    computed,
    computed_size,
    measured,
    put_in_order,
    stored,
    subgraphs,
)
from .node import (
    OPERATORS,
    OVER_TIME,
    TIME,
    Iteration,
    Known,
    Tensor,
    Timed,
    Unsupported,
    counted,
    reshaped,
)
from .restored import Restored, group_of, restored_ops
from .sequence import check_once
from .states import Pairs, begins_with, cut_to_one_call, own_metadata, state_pairs
from .time import aligned, over_frames, settled

__all__ = ["Reader", "load_onnx", "opened", "parsed", "read_onnx", "state_name"]

MAX_FILE_BYTES = 1 << 31
MAX_DEPTH = 16
"""Nesting of subgraphs."""
MAX_NODES = 50_000
"""Most nodes that are run, those of unrolled loops counted as often as they run."""
CONTROL = frozenset({"If", "Loop", "Scan"})
"""Operators with subgraphs, which may read more than the node's inputs say."""
CHOOSE = CONTROL | {"Gather", "Slice"}
"""Operators to which the number of an iteration may be given: it chooses a frame."""


def load_onnx(
    path: Path,
    shapes: Mapping[str, Sequence[int | None]] | None = None,
    constants: Mapping[str, Any] | None = None,
    states: Mapping[str, str] | None = None,
    verify: bool = True,
) -> Model:
    """Read an ONNX graph, of one step or over sequences, as a model that keeps its state.

    Parameters
    ----------
    path : Path
        The file.
    shapes : mapping of str to tuple of int or None, optional
        Shapes of inputs that the file leaves open; None is the time axis, of which the model takes
        one frame at a time (also where the file has a number of frames). Unless given, open batch
        axes are 1, and another open axis is time.
    constants : mapping of str to array, optional
        Inputs that never change, such as a sample rate, and what they are.
    states : mapping of str to str, optional
        Which output feeds which input (``{"state": "stateN"}``), where names and shapes do not say.
    verify : bool
        Whether a graph over sequences is held against the whole graph in onnxruntime, the first
        time that it is loaded.

    Returns
    -------
    Model
        Its frames have the shapes of the graph's inputs without leading axes of size 1.

    Raises
    ------
    FileError
        If the file cannot be read as ONNX, or holds what is not supported: the message names the
        node and the reason.
    """
    model, reader = read_onnx(path, shapes, constants, states)
    if reader.sequence and verify:
        with _named_in_errors(path):
            check_once(path, model, reader)
    return model


def read_onnx(
    path: Path,
    shapes: Mapping[str, Sequence[int | None]] | None = None,
    constants: Mapping[str, Any] | None = None,
    states: Mapping[str, str] | None = None,
) -> tuple[Model, Reader]:
    """Read an ONNX graph as :func:`load_onnx` does, unchecked; return how it was read as well."""
    with opened(path, shapes, constants) as reader:
        return reader.model(states), reader


@contextlib.contextmanager
def opened(
    path: Path,
    shapes: Mapping[str, Sequence[int | None]] | None = None,
    constants: Mapping[str, Any] | None = None,
) -> Iterator[Reader]:
    """Give a file's reader, nothing run yet; what is raised meanwhile becomes a FileError."""
    proto = parsed(path)
    with _named_in_errors(path):
        yield Reader(proto, shapes or {}, constants or {}, path.parent)


@contextlib.contextmanager
def _named_in_errors(path: Path) -> Iterator[None]:
    """Let every error be a FileError that names the file."""
    try:
        yield
    except Unsupported as reason:
        raise FileError(f"{path}: {reason}") from None
    except StreamrnnError as error:
        raise FileError(f"{path}: {error}") from None
    except Exception as error:  # a foreign file is wrong in more ways than can be listed
        raise FileError(f"{path}: the graph is damaged or not supported: {error!r}") from None


def parsed(path: Path) -> ModelProto:
    """Return the model in a file, nothing of it checked but that it has a graph."""
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise FileError(f"{path}: larger than {MAX_FILE_BYTES >> 30} GiB")
        proto = onnx.load(path, load_external_data=False)
    except OSError as error:
        raise FileError(f"cannot read {path}: {error.strerror or error}") from None
    except FileError:
        raise
    except Exception as error:  # protobuf's errors have no public base
        raise FileError(f"{path}: not an ONNX file, or a damaged one: {error}") from None
    if not proto.graph.node or not proto.graph.output:
        raise FileError(f"{path}: not an ONNX file, or one without a graph")
    return proto


class Reader:
    """The graph, run once with symbols.

    Parameters
    ----------
    proto : ModelProto
        The model.
    shapes, constants
        As for :func:`load_onnx`.
    folder : Path
        Where the file lies: nothing outside is read.
    """

    def __init__(
        self,
        proto: ModelProto,
        shapes: Mapping[str, Sequence[int | None]],
        constants: Mapping[str, Any],
        folder: Path,
    ) -> None:
        check_stored(proto.graph, folder)
        put_in_order(proto.graph)
        self.own: Mapping[str, Any] = own_metadata(proto)
        """What our own exports say beside the graph."""
        cut_to_one_call(proto.graph, self.own)
        self.proto = proto
        self.folder = folder
        self.computed = 0
        self.nodes = 0
        self.opsets = {_domain(o.domain): o.version for o in proto.opset_import}
        self.opset = self.opsets.get("", 0)
        if not 9 <= self.opset <= onnx.defs.onnx_opset_version():
            raise FileError(
                f"operator set {self.opset}; supported are 9 to {onnx.defs.onnx_opset_version()}"
            )
        initial = {t.name for t in proto.graph.initializer}
        inputs = {v.name: v for v in proto.graph.input if v.name not in initial}
        for name in (*shapes, *constants):
            if name not in inputs:
                raise FileError(f"no input is called {name!r}; there are {', '.join(inputs)}")
        self.constants = {n: np.asarray(a) for n, a in constants.items()}
        self.shapes: dict[str, Shape] = {}
        self.time_axes: dict[str, int] = {}
        for name, value in inputs.items():
            if name not in constants:
                self.shapes[name], time = input_shape(value, shapes.get(name))
                if time is not None:
                    self.time_axes[name] = time
        self.fixed_length = fixed_length(inputs, self.time_axes)
        """Frames in a sequence, where the file says how many."""
        self.dtypes = {n: v.type.tensor_type.elem_type for n, v in inputs.items()}
        self.feedback: dict[Value, Value] = {}
        self.output_axes: dict[str, int | None] = {}
        self.output_shapes: dict[str, Shape] = {}
        self.pairs = Pairs({}, "")
        self.kinds: dict[Value, str] = {}
        """What the values hold, where it is not numbers: ``int`` or ``bool``."""
        self._names: set[str] = set()
        self._numbers: dict[str, Iterator[int]] = {}
        self.read = set(_names_read(proto.graph))
        """Names that something in the graph reads."""
        self._restored: dict[str, Restored] = {}
        self._functions: dict[tuple[str, str], FunctionProto] = {}
        for function in proto.functions:
            check_stored(GraphProto(node=function.node), folder)
            self.read.update(function.output, _names_read(GraphProto(node=function.node)))
            self._functions[_domain(function.domain), function.name] = function

    @property
    def sequence(self) -> bool:
        """Whether the graph runs over sequences, of which one frame is read."""
        return bool(self.time_axes)

    def model(self, states: Mapping[str, str] | None) -> Model:
        """Return the graph as a model."""
        graph = self.proto.graph
        self.pairs = pairs = self.find_pairs(states)
        for name in [n for n in pairs if n not in self.read]:  # a state that nothing reads
            del pairs[name], self.shapes[name]
        self._restored = restored_ops(self.proto, self.own, self.folder)
        kept = {name for op in self._restored.values() for name in op.states}
        said = {s["input"]: s for s in self.own.get("states", [])}
        self._names |= {*(self.shapes.keys() - pairs.keys()), *self._restored}
        values: dict[str, Tensor] = dict(self.constants)
        inputs: dict[str, Value] = {}
        pasts: dict[str, Value] = {}
        for name, shape in self.shapes.items():
            indices = self.dtypes[name] in (TensorProto.INT64, TensorProto.INT32)
            if self.dtypes[name] != TensorProto.FLOAT and (name in pairs or not indices):
                kind = TensorProto.DataType.Name(self.dtypes[name])
                raise Unsupported(
                    f"input {name!r} is {kind}, frames and states are float32; if it never "
                    f"changes, say what it is with constants={{{name!r}: …}}"
                )
            if name in kept:  # the op itself keeps it
                continue
            if name in pairs:
                note = said.get(name, {})
                inner = _own_shape(note, shape)
                past = Past(inner, name=self._free(state_name(name)))
                if isinstance(note.get("initial"), list):
                    past.initial_state = {"": begins_with(note, shape).reshape(inner)}
                pasts[name] = past()
                values[name] = reshaped(pasts[name], shape)
            else:
                axis = self.time_axes.get(name)
                frame = self._frame(name, shape, axis)
                inputs[name] = Input(frame, "int64" if indices else "float32")
                value = reshaped(inputs[name], shape)
                values[name] = (
                    value if axis is None else Timed(value, axis, self.fixed_length or TIME)
                )
        self._run(graph, values, 0)
        feedback = dict(self.feedback)
        for past_name, new_name in pairs.items():
            if past_name in kept:
                continue
            new = _made(values, new_name, "a state")
            new = new.value if isinstance(new, Timed) else new
            if not isinstance(new, Value) or new.shape != self.shapes[past_name]:
                raise Unsupported(
                    f"state output {new_name!r} does not fit state input {past_name!r} "
                    f"{self.shapes[past_name]}: {describe(new)}"
                )
            feedback[pasts[past_name]] = reshaped(new, pasts[past_name].shape)
        model = Model(inputs, self._outputs(graph, values), feedback=feedback)
        notes = {p.key: p.value for p in self.proto.metadata_props if p.key != "streamrnn"}
        own = self.own
        if "metadata" in own:
            model.metadata = checked_metadata(own["metadata"], model.graph(), "the file")
        else:
            model.metadata = from_texts(notes, model.graph())
        self._know(model.graph())
        return model

    def _know(self, graph: Graph) -> None:
        """Let a graph of our own export go by its model's fingerprint, if it has the same states.

        It has not where it counts calls; and where a call takes several frames, they are one here.
        """
        own = self.own
        same = all(s.get("stream_shape") is not None for s in self.own.get("states", []))
        alone = own.get("stride_frames") == 1 and own.get("batch", 1) in (1, None)
        if "fingerprint" in own and same and alone:
            weights = [node.op.weights for node in graph.nodes]
            graph.known_as[fingerprint(graph, weights)] = str(own["fingerprint"])

    def find_pairs(self, states: Mapping[str, str] | None) -> Pairs:
        """Return which output feeds which input: as the user says, or as can be found."""
        pairs = (
            state_pairs(self.proto.graph, self.own, self.shapes)
            if states is None
            else Pairs(states, "you")
        )
        self._check_pairs(pairs)
        return pairs

    def _outputs(self, graph: GraphProto, values: Mapping[str, Tensor]) -> dict[str, Value]:
        """Return one frame of every output that is no state, all at one time."""
        outputs = {}
        for output in graph.output:
            if output.name in self.pairs.values():
                continue
            value = _made(values, output.name, "an output")
            axis: int | None = None
            if isinstance(value, Timed):
                axis, value = value.axis, settled(value).value
            if not isinstance(value, Value):
                raise Unsupported(f"output {output.name!r} does not depend on any input")
            skip = self._meaningless_calls()
            value = Align(skip)(value) if skip else value
            self.output_axes[output.name], self.output_shapes[output.name] = axis, value.shape
            outputs[output.name] = reshaped(value, self._frame(output.name, value.shape, axis))
        if not outputs:
            raise Unsupported("every output is a state: nothing is left to come out")
        return dict(zip(outputs, aligned(list(outputs.values())), strict=True))

    def random_sequence(self, model: Model, length: int, seed: int) -> dict[str, Any]:
        """Return random inputs of the whole graph, `length` frames long; states are zero."""
        rng = np.random.default_rng(seed)
        program = model.program()
        limits = dict(zip(program.graph.inputs, program.index_limits, strict=True))
        feeds: dict[str, Any] = {}
        for name, shape in self.shapes.items():
            axis = self.time_axes.get(name)
            whole = shape if axis is None else (*shape[:axis], length, *shape[axis + 1 :])
            if name in self.pairs:
                feeds[name] = np.zeros(shape, np.float32)
            elif limits[name]:
                kind = onnx.helper.tensor_dtype_to_np_dtype(self.dtypes[name])
                feeds[name] = rng.integers(0, limits[name], whole).astype(kind)
            else:
                feeds[name] = rng.standard_normal(whole).astype(np.float32)
        return feeds

    def _frame(self, name: str, shape: Shape, axis: int | None) -> Shape:
        """Return the shape of a frame: as our own exports of one stream say, else without ones."""
        own = self.own
        if own.get("batch") in (1, None) and own.get("stride_frames") == 1:
            for said in (*own.get("inputs", ()), *own.get("outputs", ())):
                if said["name"] == name and said["batch_axis"] is not None:
                    frame = tuple(said["shape"])
                    return frame if math.prod(frame) == math.prod(shape) else shape
        return frame_shape(shape, axis)

    def _meaningless_calls(self) -> int:
        """Return of how many first calls our own exports say that their outputs mean nothing."""
        own = self.own
        return int(own.get("delay_frames", 0)) // int(own.get("stride_frames", 1))

    def _check_pairs(self, pairs: Mapping[str, str]) -> None:
        names = {o.name for o in self.proto.graph.output}
        for new, old in ((v, k) for k, v in pairs.items()):
            if old not in self.shapes or new not in names:
                raise FileError(f"states: there is no input {old!r} with an output {new!r}")
        if len(set(pairs.values())) < len(pairs):
            raise FileError(f"states: one output feeds two inputs: {dict(pairs)}")

    def _run(self, graph: GraphProto, values: dict[str, Tensor], depth: int) -> None:
        """Run the nodes of a graph; `values` gains what they make."""
        if depth > MAX_DEPTH:
            raise Unsupported(f"subgraphs are nested more than {MAX_DEPTH} deep")
        for tensor in graph.initializer:
            values[tensor.name] = stored(tensor, self.folder)
        made: set[str] = set()
        for i, node in enumerate(graph.node):
            who = f"node {node.name or i} ({node.op_type})"
            self.nodes += 1
            if self.nodes > MAX_NODES:
                raise Unsupported(f"{who}: with unrolled loops over {MAX_NODES} nodes, too many")
            whole = None if depth else self._restored.get(group_of(node))
            try:
                if whole is not None:
                    whole.run(values)
                else:
                    self._node(node, values, depth)
            except Unsupported as reason:
                raise Unsupported(f"{who}: {reason}") from None
            except StreamrnnError as error:
                raise Unsupported(f"{who}: {error}") from None
            except Exception as error:  # the node lacks something, or it is of another kind
                raise Unsupported(f"{who}: cannot be read: {error!r}") from None
            again = made.intersection(n for n in node.output if n)
            if again:
                raise Unsupported(f"{who}: makes {min(again)!r}, which a node before it makes")
            made.update(node.output)

    def _node(self, node: NodeProto, values: dict[str, Tensor], depth: int) -> None:
        domain = _domain(node.domain)
        kind = f"{domain}.{node.op_type}" if domain else node.op_type
        args = [_made(values, name, "it") if name else None for name in node.input]
        fixed = not any(isinstance(x, (Value, Timed)) for x in args)
        kinds = [self._kind_of(x) for x in args]
        if kind == "Constant":
            outputs = [attribute_constant(node, self.folder)]
        elif kind in ("Shape", "Size") and not fixed:
            outputs = [measured(node, args[0])]
        elif fixed and kind not in CONTROL and not domain and args:
            outputs = self._evaluated(node, args)
        elif (domain, node.op_type) in self._functions:
            outputs = self._called(self._functions[domain, node.op_type], node, args, depth)
        elif kind in OPERATORS or kind in OVER_TIME:
            outputs = self._applied(kind, node, args, values, depth, kinds)
        elif domain:
            raise Unsupported(f"the operator {node.op_type} of {domain!r} is not supported")
        else:
            outputs = self._by_its_function(node, args, depth, kinds)
        if not fixed and kind not in CONTROL:
            made = kinds_made(node, self.opsets.get(domain, self.opset), kinds)
            for output, made_kind in zip(outputs, made, strict=False):
                value = output.value if isinstance(output, Timed) else output
                if isinstance(value, Value):
                    self.kinds[value] = made_kind
        for name, value in zip(node.output, outputs, strict=False):
            if name:
                values[name] = value

    def _called(
        self, function: FunctionProto, node: NodeProto, args: list[Any], depth: int
    ) -> list[Tensor]:
        """Return what a function of the model makes of a node's inputs."""
        given = {a.name: a for a in (*function.attribute_proto, *node.attribute)}
        body = GraphProto(node=function.node)
        _bind(body, given)
        inner = dict.fromkeys(function.input) | dict(zip(function.input, args, strict=False))
        before = self.opsets, self.opset
        self.opsets = self.opsets | {_domain(o.domain): o.version for o in function.opset_import}
        self.opset = self.opsets.get("", self.opset)
        try:
            self._run(body, inner, depth + 1)
        finally:
            self.opsets, self.opset = before
        return [_made(inner, name, "an output") for name in function.output]

    def _kind_of(self, x: Tensor) -> str:
        """Return what a tensor holds: ``float``, ``int`` or ``bool``."""
        x = x.value if isinstance(x, Timed) else x
        if isinstance(x, Value):
            return self.kinds.get(x, "int" if x.dtype == "int64" else "float")
        return "float" if x is None else kind_of_array(x)

    def _by_its_function(
        self, node: NodeProto, args: list[Any], depth: int, kinds: list[str]
    ) -> list[Tensor]:
        """Return what an operator without a handler makes, by the function that defines it."""
        shapes = [None if x is None else tuple(np.shape(x)) for x in args]
        found = written_out(node, self.opset, shapes, kinds)
        if found is None:
            raise Unsupported("this operator is not supported")
        body = onnx.helper.make_graph(found[0], "function", [], [])
        inner = {name: x for name, x in zip(node.input, args, strict=True) if name}
        before = self.opset
        self.opset = self.opsets[""] = found[1]
        try:
            self._run(body, inner, depth + 1)
        finally:
            self.opset = self.opsets[""] = before
        return [inner[name] if name else None for name in node.output]

    def _applied(
        self,
        kind: str,
        node: NodeProto,
        args: list[Any],
        values: dict[str, Tensor],
        depth: int,
        kinds: list[str],
    ) -> list[Tensor]:
        """Return what the operator's handler makes of symbolic inputs."""

        def run(graph: GraphProto, given: Mapping[str, Tensor]) -> list[Tensor]:
            inner = {**values, **given}
            self._run(graph, inner, depth + 1)
            return [_made(inner, output.name, "an output") for output in graph.output]

        attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
        opset = self.opsets.get(_domain(node.domain), self.opset)
        a = Known(attributes, opset, self._name_of(node), self.feedback, run, self._reserve, kinds)
        a.reads = lambda graph: [values[name] for name in {*_names_read(graph)} & values.keys()]
        a.wanted = tuple(name in self.read for name in node.output)
        over_time = any(isinstance(x, Timed) for x in args) and kind not in CONTROL
        if any(isinstance(x, Iteration) for x in args) and kind not in CHOOSE:
            raise counted()
        n = len(node.output)
        made = over_frames(kind, a, n, args) if over_time else OPERATORS[kind].handler(a, n, *args)
        a.all_used()
        return list(made) if isinstance(made, tuple) else [made]

    def _reserve(self, size: int) -> None:
        """Count numbers that are about to be made of few; refuse too many."""
        self.computed += size
        if size < 0 or size > MAX_FRAME or self.computed > MAX_COMPUTED:
            raise Unsupported(f"would make {size} numbers, which are too many")

    def _name_of(self, node: NodeProto) -> str:
        """Return a name for what a node keeps: its own, in characters that names may have."""
        return self._free("_".join(re.findall(r"\w+", node.name or node.op_type)).lower())

    def _free(self, base: str) -> str:
        """Return a name that nothing has yet: this one, or with a number."""
        name, numbers = base, self._numbers.setdefault(base, itertools.count(1))
        while name in self._names:
            name = f"{base}_{next(numbers)}"
        self._names.add(name)
        return name

    def _evaluated(self, node: NodeProto, args: list[Any]) -> list[Tensor]:
        """Compute a node whose inputs are all known with ONNX's own reference evaluator."""
        if node.op_type not in COMPUTED:
            raise Unsupported("with constant inputs this operator is not supported")
        if any(isinstance(x, Iteration) for x in args):
            now = [x.at(0) if isinstance(x, Iteration) else x for x in args]
            then = [x.at(1) if isinstance(x, Iteration) else x for x in args]
            loop = next(x for x in args if isinstance(x, Iteration))
            both = zip(self._evaluated(node, now), self._evaluated(node, then), strict=True)
            return [loop.like_it(a, b) for a, b in both]
        self._reserve(computed_size(node, args))
        return computed(node, args, self.opset)


def _bind(graph: GraphProto, given: Mapping[str, AttributeProto]) -> None:
    """Put a function's attributes where the nodes of its body refer to them."""
    for node in graph.node:
        for i in reversed(range(len(node.attribute))):
            attribute = node.attribute[i]
            for inner in (attribute.g, *attribute.graphs):
                _bind(inner, given)
            if attribute.ref_attr_name:
                name = attribute.name
                if attribute.ref_attr_name in given:
                    attribute.CopyFrom(given[attribute.ref_attr_name])
                    attribute.name = name
                else:
                    del node.attribute[i]


def _names_read(graph: GraphProto) -> Iterator[str]:
    """Yield every name that a node, a subgraph or the graph's outputs read."""
    yield from (output.name for output in graph.output)
    for node in graph.node:
        yield from filter(None, node.input)
        for inner in subgraphs(node):
            yield from _names_read(inner)


def _domain(name: str) -> str:
    """Return a domain of operators; ONNX's own has two names."""
    return "" if name == "ai.onnx" else name


def _made(values: Mapping[str, Tensor], name: str, who: str) -> Tensor:
    if name not in values:
        raise Unsupported(f"{who} reads {name!r}, which nothing before it makes")
    return values[name]


def _own_shape(note: Mapping[str, Any], shape: Shape) -> Shape:
    """Return the shape that a state has in the exported model, if the graph is for one stream."""
    inner = note.get("stream_shape")
    return shape if inner is None or math.prod(inner) != math.prod(shape) else tuple(inner)


def state_name(name: str) -> str:
    """Return the state's name without its ``_in``: ``lstm_0.h`` of ``lstm_0.h_in``."""
    return name.removesuffix("_in") or name
