"""Models with weights in fewer bytes, and what that costs.

``model.quantize("int8")`` returns a new model in which cells and linear layers are those with int8
weights, where that pays. An op with int8 weights says which op it ``replaces``; everything else is
told by the names of the weights, so nothing here knows an op by name. With ``"float16"`` and
``"bfloat16"`` ops stay what they are, and get another ``storage``.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from .describe import describe_model
from .drift import QuantizationReport, sums_of
from .errors import ConfigError, FrameError
from .graph import Graph, Node, Value, describe
from .layer import Layer, Model
from .narrow import beyond
from .ops import REGISTRY, Op
from .ops.int8_product import int8_weights
from .rewrite import fold_batch_norm

__all__ = ["MODES", "compare", "quantized"]

Array = npt.NDArray[Any]

MODES = ("int8", "float16", "bfloat16")
MIN_WEIGHTS = 1024
"""Ops with fewer stay float32: rounding a frame takes as long as their product, and 2 KiB are
nothing."""
MIN_SNR_DB = 20.0
"""An op whose rounding alone brings the outputs closer to their error than this stays float32."""
MAX_MOMENTS = 8192
"""Matrices with more inputs are rounded number by number: moments would take over half a GiB."""
CHUNK = 128
"""Steps that are compared at once."""


def quantized(
    layer: Layer,
    mode: str,
    calibration: Any = None,
    keep: Sequence[str] = (),
    min_snr_db: float = MIN_SNR_DB,
    convolutions: bool | None = None,
) -> Model:
    """Return a model with quantised weights; see :meth:`Layer.quantize`.

    Raises
    ------
    ConfigError
        If there is no such mode, `keep` names no op, nothing would be quantised, or the
        calibration holds no frames of the model, or some with which it overflows.
    """
    if mode not in MODES:
        raise ConfigError(
            f"quantize: `mode` must be one of {', '.join(map(repr, MODES))}, got {mode!r}"
        )
    if not isinstance(min_snr_db, (int, float)) or math.isnan(min_snr_db):
        raise ConfigError(f"quantize: `min_snr_db` must be a number of dB, got {min_snr_db!r}")
    if mode != "int8" and calibration is not None:
        raise ConfigError(
            f"quantize: `calibration` is for 'int8' only, got {describe(calibration)}: {mode!r} "
            f"rounds each weight to the nearest number, and fixes no ranges; leave it out"
        )
    graph = fold_batch_norm(layer.graph())
    names = [node.name for node in graph.nodes]
    sequence = isinstance(keep, Sequence) and not isinstance(keep, str)
    if not sequence or not all(isinstance(name, str) for name in keep):
        raise ConfigError(f"quantize: `keep` must be a sequence of names, got {keep!r}")
    unknown = [name for name in keep if name not in names]
    if unknown:
        raise ConfigError(
            f"quantize: `keep` names {', '.join(unknown)}, but the model's ops are "
            f"{', '.join(names)}"
        )
    kept: dict[str, str] = {}
    chosen: dict[str, Form] = {}
    calls = _calls(graph)
    for node, *others in calls:
        matrices = [w for w in node.op.weights.values() if w.ndim > 1]
        size = sum(w.size for w in matrices)
        if not matrices or any(w.dtype == np.int8 for w in matrices):
            continue
        if any(call.name in keep for call in (node, *others)):
            kept[node.name] = "as asked"
        else:
            form, reason = _narrow(node, mode) if mode != "int8" else _int8(node.op)
            if not reason and hasattr(form, "convolution"):
                reason = _convolution(convolutions, calibration is not None)
            if form is not None and size < MIN_WEIGHTS:
                reason = f"{size} weights: below {MIN_WEIGHTS} nothing is gained"
            if form is None or reason:
                kept[node.name] = reason
            else:
                chosen[node.name] = form
    moments: dict[str, Array] = {}
    if calibration is not None:
        recordings = _recordings(layer, calibration)
        moments = _moments(graph, calls, chosen, recordings)
        wanted = [_outputs(layer, xs) for xs in recordings]
        for i, y in enumerate(wanted):
            if not np.isfinite(y).all():
                raise ConfigError(
                    f"calibration, recording {i}: the float model overflows, its outputs hold a "
                    f"NaN or an infinity: give frames like those that it will meet"
                )
        snr_db = {}
        for name in chosen:
            alone = _rebuilt(graph, {name: chosen[name]}, moments, {})
            snr_db[name] = _snr_db(wanted, [_outputs(alone, xs) for xs in recordings])
        optional = [n for n in chosen if hasattr(chosen[n], "convolution") and not convolutions]
        worst_db = min((snr_db[n] for n in chosen if n not in optional), default=math.inf)
        for name, least_db in snr_db.items():
            if least_db == -math.inf:
                kept[name] = "its rounding alone makes outputs overflow"
            elif least_db < min_snr_db:
                kept[name] = f"its rounding alone leaves {least_db:.1f} dB, below {min_snr_db:g}"
            elif name in optional and least_db < worst_db:
                beside = (
                    "that of any other op more"
                    if len(snr_db) > len(optional)
                    else "nothing else is rounded"
                )
                kept[name] = (
                    f"a convolution: its rounding alone leaves {least_db:.1f} dB, {beside}; "
                    f"rounded only with convolutions=True"
                )
            if name in kept:
                del chosen[name]
    if not chosen:
        reasons = "".join(f"; {name}: {why}" for name, why in kept.items())
        raise ConfigError(f"quantize: {layer!r} has nothing to quantise with {mode!r}{reasons}")
    how = dict.fromkeys(chosen, f"weights {mode}" + ", frames in bytes" * (mode == "int8"))
    notes = {"mode": mode, "quantised": how, "kept": kept}
    metadata = {**getattr(layer, "metadata", {}), "quantization": notes}
    return _rebuilt(graph, chosen, moments, metadata)


Form = type[Op] | str
"""What an op becomes: an op of another kind, or itself with another storage."""


def _int8(op: Op) -> tuple[Form | None, str]:
    """Return the op with int8 weights that replaces an op, if any, and why it shall not."""
    kinds = (kind for kind in REGISTRY.values() if hasattr(kind, "replaces"))
    form = next((kind for kind in kinds if kind.replaces.__name__ == type(op).__name__), None)
    if form is None:
        return None, f"{type(op).__name__} has no int8 form"
    return form, form.lacks(op) if hasattr(form, "lacks") else ""


def _convolution(wanted: bool | None, calibrated: bool) -> str:
    """Return why a convolution stays float32, if that is known before its cost is measured."""
    if wanted or (wanted is None and calibrated):
        return ""
    return "a convolution: rounded only with a calibration, or convolutions=True"


def _narrow(node: Node, storage: str) -> tuple[Form | None, str]:
    """Return another storage for an op, if it has that, and why it shall not have it.

    Raises
    ------
    ConfigError
        If a weight is beyond its range.
    """
    if reason := node.op.needs_float32():
        return None, reason
    if node.op.storage == storage:
        return None, f"its weights are {storage} already"
    for own, w in node.op.weights.items():
        if problem := beyond(w, storage):
            raise ConfigError(
                f"quantize: {node.full(own)}: {problem} with keep=[{node.name!r}]"
                + (", or take 'bfloat16'" if storage == "float16" else "")
            )
    return storage, ""


def _calls(graph: Graph) -> list[list[Node]]:
    """Return for each op the nodes where it stands: one, unless it is used again."""
    calls: dict[int, list[Node]] = {}
    for node in graph.nodes:
        calls.setdefault(id(node.op), []).append(node)
    return list(calls.values())


def _moments(
    graph: Graph,
    calls: Sequence[Sequence[Node]],
    chosen: Mapping[str, Any],
    recordings: Sequence[tuple[Array, ...]],
) -> dict[str, Array]:
    """Return, for each matrix (O, …) by its name in the model, the sum of x x^T over its inputs."""
    found: dict[tuple[int, int, int | None], Array] = {}
    made: dict[str, Array] = {}
    for nodes in calls:
        name = nodes[0].name
        for node in nodes if name in chosen else ():
            for own, w in node.op.weights.items():
                inputs = math.prod(w.shape[1:])
                if w.ndim == 1 or inputs > MAX_MOMENTS:
                    continue
                form: Any = chosen[name]  # with int8 weights
                value = form.multiplies(own, node)
                key = id(value), inputs, id(node) if w.ndim > 2 else None
                if key not in found:
                    frames = _seen(graph, value, recordings).astype(np.float64)
                    rows = form.rows(node.op, frames) if w.ndim > 2 else frames
                    rows = rows.reshape(-1, inputs)
                    found[key] = rows.T @ rows
                full = nodes[0].full(own)
                made[full] = made[full] + found[key] if full in made else found[key]
    return made


def _seen(graph: Graph, value: Value, recordings: Sequence[tuple[Array, ...]]) -> Array:
    """Return the frames of a value inside a model over recordings, one after another."""
    behind: dict[int, Value] = {}
    stack = [value]
    while stack:
        v = stack.pop()
        if id(v) not in behind:
            behind[id(v)] = v
            stack += [*v.args, *([graph.feedback[v]] if v in graph.feedback else [])]
    inputs = {name: v for name, v in graph.inputs.items() if id(v) in behind}
    feedback = {past: new for past, new in graph.feedback.items() if id(past) in behind}
    probe = Model(inputs, {"inside": value}, feedback=feedback)
    places = [i for i, name in enumerate(graph.inputs) if name in inputs]
    return np.concatenate([_run(probe, tuple(xs[i] for i in places)) for xs in recordings])


def _run(model: Layer, xs: tuple[Array, ...]) -> Any:
    return model.stream().run(xs[0] if len(xs) == 1 else xs)


def _rebuilt(
    graph: Graph,
    chosen: Mapping[str, Form],
    moments: Mapping[str, Array],
    metadata: Mapping[str, Any],
) -> Model:
    """Return the graph as a model in which some ops, by name, have another form."""
    new: dict[int, Value] = {id(v): v for v in graph.inputs.values()}
    made: dict[int, Op] = {}
    for node in graph.nodes:
        if id(node.op) not in made:
            made[id(node.op)] = _again(node, chosen.get(node.name), moments)
        args = tuple(new[id(a)] for a in node.args)
        value = node.value
        new[id(value)] = Value(value.shape, value.clock, value.dtype, made[id(node.op)], args)
    return Model(
        graph.inputs,
        {name: new[id(v)] for name, v in graph.outputs.items()},
        dict(metadata),
        {new[id(past)]: new[id(v)] for past, v in graph.feedback.items()},
    )


def _again(node: Node, form: Form | None, moments: Mapping[str, Array]) -> Op:
    """Return an op once more, under its name in the model, in another form or as it is."""
    op = node.op
    kind = type(op) if form is None or isinstance(form, str) else form
    made = kind(**op.config(), name=node.name)
    if kind is type(op):
        made.weights = dict(op.weights)
        made.storage = form if isinstance(form, str) else op.storage
    else:
        known = {own: moments[full] for own in op.weights if (full := node.full(own)) in moments}
        made.weights = getattr(kind, "rounded", int8_weights)(op.weights, known)
    made.initial_state = op.initial_state
    return made


def compare(
    model: Layer,
    quantised: Layer,
    frames: Any = None,
    steps: int = 10_000,
) -> QuantizationReport:
    """Run a model and its quantised form side by side over a long stream.

    Parameters
    ----------
    model, quantised : Layer
        The float model, and what :meth:`Layer.quantize` made of it. They have streams of their own.
    frames : array, tuple of arrays, or iterable of these, optional
        Recordings (T, *shape) like those that the model will meet, fed one after another, again and
        again; without them, noise.
    steps : int
        Frames of the stream.

    Returns
    -------
    QuantizationReport
        Errors of outputs and states in the course of time, times of the steps and bytes of the
        weights; it prints as text and draws a picture.

    Raises
    ------
    ConfigError
        If `steps` is not positive, or the two models do not have the same inputs and outputs.
    """
    if not isinstance(steps, int) or isinstance(steps, bool) or steps < 1:
        raise ConfigError(f"compare: `steps` must be an integer of at least 1, got {steps!r}")
    programs = model.program(), quantised.program()
    sides = [
        ([(v.shape, v.dtype) for v in p.inputs], [v.shape for v in p.outputs], p.clock)
        for p in programs
    ]
    if sides[0] != sides[1]:
        raise ConfigError(
            f"compare: {model!r} and {quantised!r} must have the same inputs, outputs and rate"
        )
    recordings = _recordings(model, frames) if frames is not None else [_noise(model)]
    each = [
        tuple(np.ascontiguousarray(x[t]) for x in xs)
        for xs in recordings
        for t in range(len(xs[0]))
    ]
    streams = model.stream(), quantised.stream()
    step_us = np.empty((2, steps))
    names = [*programs[0].output_names, *streams[0].state]
    seen: dict[str, list[list[Array]]] = {name: [[], []] for name in names}
    sums: dict[str, list[Array]] = {name: [] for name in names}
    for t in range(steps):
        xs = each[t % len(each)]
        for k in (t % 2, 1 - t % 2):
            begin_ns = time.perf_counter_ns()
            y = streams[k].step(xs[0] if len(xs) == 1 else xs)
            step_us[k, t] = (time.perf_counter_ns() - begin_ns) / 1000
            ys: Any = () if y is None else y if isinstance(y, tuple) else (y,)
            for name, array in zip(programs[0].output_names, ys, strict=False):
                seen[name][k].append(array.reshape(-1))
            for name, array in streams[k].state.items():
                if name in seen:
                    seen[name][k].append(array.reshape(-1))
        if (t + 1) % CHUNK and t + 1 < steps:
            continue
        for name, (a, b) in seen.items():
            if a:
                sums[name].append(sums_of(np.stack(a), np.stack(b)))
            a.clear()
            b.clear()
    notes = getattr(quantised, "metadata", {}).get("quantization", {})
    before, after = (describe_model(m)["weight_bytes"] for m in (model, quantised))
    return QuantizationReport(
        notes.get("mode", "compared"),
        notes.get("quantised", {}),
        notes.get("kept", {}),
        before,
        after,
        1,
        step_us,
        {name: np.concatenate(parts) for name, parts in sums.items() if parts},
        "weights",
    )


def _noise(model: Layer) -> tuple[Array, ...]:
    """Return 1000 frames of normal noise, or of random indices."""
    rng, program = np.random.default_rng(0), model.program()
    return tuple(
        rng.standard_normal((1000, *v.shape)).astype(np.float32)
        if v.dtype == "float32"
        else rng.integers(0, limit or 1, (1000, *v.shape))
        for v, limit in zip(program.inputs, program.index_limits, strict=True)
    )


def _recordings(model: Layer, calibration: Any) -> list[tuple[Array, ...]]:
    """Return a user's recordings, each with an array for every input."""
    if isinstance(calibration, (np.ndarray, tuple)):
        calibration = [calibration]
    elif not isinstance(calibration, Iterable) or isinstance(calibration, (str, dict)):
        raise ConfigError(
            f"calibration: expected an array of frames, a tuple of arrays for several inputs, or "
            f"an iterable of such recordings, got {describe(calibration)}"
        )
    found = []
    for i, recording in enumerate(calibration):
        given = recording if isinstance(recording, tuple) else (recording,)
        try:
            made = _run(model, given)
        except FrameError as error:
            raise ConfigError(f"calibration, recording {i}: {error}") from None
        if not len(made[0] if isinstance(made, tuple) else made):
            raise ConfigError(f"calibration, recording {i}: {len(given[0])} frames give no output")
        found.append(given)
    if not found:
        raise ConfigError("calibration: it holds no recordings, expected at least one")
    return found


def _outputs(model: Layer, xs: tuple[Array, ...]) -> Array:
    """Return all outputs of a recording, flat."""
    made = _run(model, xs)
    parts = made if isinstance(made, tuple) else (made,)
    return np.concatenate([part.reshape(-1) for part in parts]).astype(np.float64)


def _snr_db(wanted: Sequence[Array], got: Sequence[Array]) -> float:
    """Return the power of outputs over that of their errors; -inf if one has overflowed."""
    if not all(np.isfinite(y).all() for y in (*wanted, *got)):
        return -math.inf
    signal = sum(float((a * a).sum()) for a in wanted)
    noise = sum(float(((a - b) ** 2).sum()) for a, b in zip(wanted, got, strict=True))
    return float(10 * np.log10(signal / noise)) if signal and noise else float("inf")
