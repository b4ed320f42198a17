"""A model's graph written op by op, for a known or for any number of frames.

Three things are enough for every op, none of which it has to say about itself:

- Most ops write a form that holds for any number of frames T.
- One that asks how many there are (``g.frames()``) gets the answer where it is known; else its form
  for a single output is the body of a ``Scan``, and so is that of the ops of a loop (``Past``).
- Where an op's input begins later than the model's, frames that come before mean nothing. A state
  that is nothing but the last frames is kept as it begins by zeros in their place; any other is
  kept frame by frame.
"""

from __future__ import annotations

import graphlib
from collections.abc import Callable, Sequence

import numpy as np
import onnx

from streamrnn.errors import ExportError
from streamrnn.graph import Clock, Graph, Node, Value

from .functions import Functions
from .recorder import OnnxRecorder, begins_at_rest
from .scope import CALLS, MAX_CALLS, OpenFramesError, Scope, tensor_info

__all__ = ["record"]

Part = Node | tuple[Node, ...]


def record(g: OnnxRecorder, graph: Graph, functions: Functions | None = None) -> dict[str, str]:
    """Let every op write its form; return the value of each output.

    Parameters
    ----------
    g : OnnxRecorder
        What is written to.
    graph : Graph
        The model's graph.
    functions : Functions, optional
        Makes one node of the nodes of an op.
    """
    names = {id(v): name for name, v in graph.inputs.items()}
    clocks = {past.clock for past in graph.feedback if g.known_frames(past.clock) != 1}
    for part in _parts(graph, clocks):
        if isinstance(part, Node):
            xs = [names[id(a)] for a in part.args]
            names[id(part.value)] = _write_op(g, part, xs, functions)
        else:
            names |= _write_loop(g, graph, part, names)
    nodes = {id(node.value): node for node in graph.nodes}
    _feed_back(g, graph, [nodes[id(p)] for p in graph.feedback if p.clock not in clocks], names)
    if g.counts_calls:
        _count_calls(g)
    missing = g.scope.states.keys() ^ g.scope.next_states.keys()
    if missing:
        raise ExportError(f"states {', '.join(sorted(missing))} do not both come in and go out")
    order = [name for name in (*graph.states(), CALLS) if name in g.scope.states]
    g.scope.states = {name: g.scope.states[name] for name in order}
    return {name: names[id(v)] for name, v in graph.outputs.items()}


def _parts(graph: Graph, clocks: set[Clock]) -> list[Part]:
    """Return the ops in an order in which they can be written, those of a loop as one.

    A loop is everything at one clock that lies between values of ``Past`` and what they take.
    """
    loops = [_loop(graph, clock) for clock in sorted(clocks, key=lambda c: (c.stride, c.start))]
    if not loops:
        return list(graph.nodes)
    parts: list[Part] = [*loops, *graph.nodes]
    part_of = {id(node.value): node.name for node in graph.nodes}
    for loop in loops:
        part_of |= {id(node.value): loop[0].name for node in loop}
        parts = [p for p in parts if not (isinstance(p, Node) and p in loop)]
    by_name: dict[str, Part] = {}
    order: graphlib.TopologicalSorter[str] = graphlib.TopologicalSorter()
    for part in parts:
        nodes = (part,) if isinstance(part, Node) else part
        name = nodes[0].name
        by_name[name] = part
        reads = [a for node in nodes for a in node.args]
        if not isinstance(part, Node):
            reads += [graph.feedback[node.value] for node in part if node.op.takes_feedback]
        order.add(name, *(part_of[id(a)] for a in reads if part_of.get(id(a), name) != name))
    return [by_name[name] for name in order.static_order()]


def _loop(graph: Graph, clock: Clock) -> tuple[Node, ...]:
    pasts = {id(p): new for p, new in graph.feedback.items() if p.clock == clock}
    after = set(pasts)
    for node in graph.nodes:
        if any(id(a) in after for a in node.args):
            after.add(id(node.value))
    before = {id(new) for new in pasts.values()}
    for node in reversed(graph.nodes):
        if id(node.value) in before:
            before.update(id(a) for a in node.args)
    inside = set(pasts) | (after & before)
    return tuple(node for node in graph.nodes if id(node.value) in inside)


def _write_op(g: OnnxRecorder, node: Node, xs: list[str], functions: Functions | None) -> str:
    """Write one op: for all frames at once if its form allows it, else by a Scan."""
    g.begin(node)
    scope = g.scope.empty()
    try:
        with g.writing(scope):
            y = _written(g, node, xs)
    except OpenFramesError:
        scope = g.scope.empty()
        with g.writing(scope):
            stride = node.value.clock.stride // node.read_clock.stride
            args = list(zip(xs, node.args, strict=True))
            (y,) = _repeated(g, node, args, stride, lambda x: [(_written(g, node, x), node.value)])
    if functions is not None:
        functions.put(g, scope, y)
    g.remember(node, xs, scope, y)
    g.keep(scope)
    return y


def _written(g: OnnxRecorder, node: Node, xs: Sequence[str]) -> str:
    """Write one op, with zeros in the place of frames that do not exist yet."""
    g.begin(node)
    waited = -g.first_frames()[0]
    if waited and node.states() and begins_at_rest(node):
        limit = g.constant(np.full(1, waited, np.float32))
        begun = g.op("GreaterOrEqual", g.positions(node.read_clock), limit)
        xs = [_or_zero(g, begun, x, a) for x, a in zip(xs, node.args, strict=True)]
    try:
        return node.op.onnx(g, *xs)
    except NotImplementedError:
        raise ExportError(
            f"{node.name}: {node.op!r} has no form in ONNX (opset {g.opset}): give it an `onnx` "
            f"method, or try a higher opset"
        ) from None


def _or_zero(g: OnnxRecorder, begun: str, x: str, value: Value) -> str:
    axes = g.ints(*range(1, 2 + len(value.shape)))
    zero = g.constant(np.zeros((), value.dtype))
    return g.op("Where", g.op("Unsqueeze", begun, axes), x, zero)


def _repeated(
    g: OnnxRecorder,
    first: Node,
    inputs: Sequence[tuple[str, Value]],
    stride: int,
    write: Callable[[list[str]], list[tuple[str, Value]]],
) -> tuple[str, ...]:
    """Repeat what is written for one output, which takes `stride` frames, by a Scan."""
    clock, late = first.value.clock, bool(g.first_frames()[0] and first.states())
    body = Scope(clock.stride, clock.stride, inside=True)
    xs, infos, names = [], [], []
    group = (stride,) if stride > 1 else ()
    for x, value in inputs:
        names.append(g.unique("frame"))
        infos.append(tensor_info(names[-1], value.dtype, (*group, g.batch_dim, *value.shape)))
        xs.append(_grouped(g, x, stride) if group else x)
    if late or not xs:
        infos.append(tensor_info(g.unique("position"), "float32" if late else "int64", ()))
        xs.append(g.positions(clock) if late else g.numbers(clock))
    with g.writing(body):
        if late:
            body.base = g.op("Unsqueeze", infos[-1].name, g.ints(0))
        frames = names if group else [g.op("Unsqueeze", name, g.ints(0)) for name in names]
        ys = [
            (g.op("Squeeze", y, g.ints(0)), v.dtype, (g.batch_dim, *v.shape))
            for y, v in write(frames)
        ]
    g.begin(first)
    return g.scan(body, xs, infos, ys)


def _grouped(g: OnnxRecorder, x: str, stride: int) -> str:
    """Return (T, …) as (T / stride, stride, …)."""
    rest = g.op("Slice", g.op("Shape", x), g.ints(1), g.ints(2**62), g.ints(0))
    return g.op("Reshape", x, g.op("Concat", g.ints(-1, stride), rest, axis=0))


def _write_loop(
    g: OnnxRecorder, graph: Graph, loop: Sequence[Node], names: dict[int, str]
) -> dict[int, str]:
    """Write the ops of a loop as one Scan; return the values that others read."""
    inside = {id(node.value) for node in loop}
    pasts = [node for node in loop if node.op.takes_feedback]
    reads = [a for node in loop for a in node.args] + [graph.feedback[p.value] for p in pasts]
    taken = {id(a): a for a in reads if id(a) not in inside}
    others = [a for node in graph.nodes if id(node.value) not in inside for a in node.args]
    others += [*graph.outputs.values(), *graph.feedback.values()]
    wanted = {id(v): v for v in others if id(v) in inside}

    def write(frames: list[str]) -> list[tuple[str, Value]]:
        inner = dict(zip(taken, frames, strict=True))
        for node in loop:
            inner[id(node.value)] = _written(g, node, [inner[id(a)] for a in node.args])
        _feed_back(g, graph, pasts, inner)
        return [(inner[key], v) for key, v in wanted.items()]

    g.begin(loop[0])
    made = _repeated(g, loop[0], [(names[key], v) for key, v in taken.items()], 1, write)
    return dict(zip(wanted, made, strict=True))


def _feed_back(g: OnnxRecorder, graph: Graph, pasts: list[Node], names: dict[int, str]) -> None:
    """Let the value of each ``Past`` go out as the state that comes in next."""
    for node in pasts:
        g.begin(node)
        g.next_state("", g.op("Squeeze", names[id(graph.feedback[node.value])], g.ints(0)))


def _count_calls(g: OnnxRecorder) -> None:
    """Count, in a state, what the calls of a step graph would be."""
    if CALLS in g.scope.states:
        raise ExportError(
            f"the state {CALLS!r} has the name of the graph's own counter: give its layer another "
            f"name"
        )
    one = g.constant(np.ones(1, np.float32))
    calls = one
    if g.scope.chunk_frames is None:
        numbers = g.numbers(Clock(g.scope.unit_frames))
        calls = g.op("Cast", g.op("Shape", numbers), to=onnx.TensorProto.FLOAT)
    top = g.constant(np.full(1, MAX_CALLS, np.float32))
    g.scope.states[CALLS] = (1,)
    g.scope.next_states[CALLS] = g.op("Min", g.op("Add", f"{CALLS}_in", calls), top)
