"""Models in files: safetensors with the graph, as JSON, in its metadata.

Tensors are named ``op.parameter`` (``lstm_0.weight_ih``); an initial state other than zero is
``op.state`` (``lstm_0.h``). Matrices that an op keeps in two bytes are F16 or BF16. The metadata
entry ``streamrnn`` says the format's version, the inputs, the ops with their arguments and what
they read, and the outputs. Nothing in a file is executed, no memory is taken before its size has
been checked, and an unknown op, argument or tensor is an error.
"""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, deserialize
from safetensors.numpy import save as save_tensors

from .errors import FileError, StreamrnnError
from .graph import Input, Shape, Value, describe
from .layer import Layer, Model, check_weights
from .narrow import NarrowWeights, widened
from .ops import REGISTRY, Op
from .weights import TYPES

__all__ = ["FORMAT_VERSION", "load", "save", "written_whole"]

FORMAT_VERSION = 1
SUFFIX = ".safetensors"
KERAS_SUFFIXES = (".keras", ".h5", ".hdf5")
MAX_FILE_BYTES = 1 << 33


@contextlib.contextmanager
def written_whole(path: Path) -> Any:
    """Give a temporary path beside `path` to write to, and rename it in the end.

    If anything fails, nothing is left behind and a file that was there stays as it was. A link
    stays a link: what it points to is written.
    """
    path = Path(os.path.realpath(path))
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=path.suffix, dir=path.parent)
    os.close(handle)
    try:
        yield Path(name)
        os.chmod(name, 0o644)
        os.replace(name, path)
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name)


def _as_path(path: str | Path) -> Path:
    try:
        return Path(path)
    except TypeError:
        raise FileError(f"expected a path, got {describe(path)}") from None


def save(layer: Layer, path: str | Path) -> None:
    """Write a model to a ``.safetensors`` file.

    Parameters
    ----------
    layer : Layer
        The model; the same model always gives the same bytes.
    path : str or Path
        Where to; a file that exists is replaced once the new one is complete.

    Raises
    ------
    FileError
        If the path does not end in ``.safetensors`` or cannot be written.
    """
    path = _as_path(path)
    if path.suffix != SUFFIX:
        hint = ": `streamrnn.export.to_onnx` writes .onnx" if path.suffix == ".onnx" else ""
        raise FileError(f"cannot save to {path}: the name must end in {SUFFIX}{hint}")
    graph = layer.graph()
    names = {id(v): name for name, v in graph.inputs.items()}
    names |= {id(node.value): node.name for node in graph.nodes}
    tensors: dict[str, npt.NDArray[Any]] = {}
    bfloats = set()
    for node in graph.nodes:
        weights, storage = node.op.weights, node.op.storage
        kept = weights.kept if isinstance(weights, NarrowWeights) else weights
        for name, array in {**kept, **node.op.initial_state}.items():
            full = node.full(name)
            if array.dtype == np.uint16 and storage == "float16":
                array = array.view(np.float16)
            elif array.dtype == np.uint16:
                bfloats.add(full)
            tensors[full] = np.asarray(array, order="C")  # a single number stays one
    header = {
        "version": FORMAT_VERSION,
        "inputs": {n: {"shape": v.shape, "dtype": v.dtype} for n, v in graph.inputs.items()},
        "ops": [
            {
                "name": node.name,
                "op": type(node.op).__name__,
                "config": node.op.config(),
                "reads": [names[id(a)] for a in node.args],
            }
            for node in graph.nodes
        ],
        "outputs": {n: names[id(v)] for n, v in graph.outputs.items()},
        "feedback": {names[id(past)]: names[id(v)] for past, v in graph.feedback.items()},
        "metadata": getattr(layer, "metadata", {}),
    }
    data = _as_bfloat16(save_tensors(tensors, {"streamrnn": json.dumps(header)}), bfloats)
    try:
        with written_whole(path) as temporary:
            temporary.write_bytes(data)
    except OSError as error:
        raise FileError(f"cannot write {path}: {error.strerror or error}") from None


def _as_bfloat16(data: bytes, names: set[str]) -> bytes:
    """Return a file in which some tensors are called BF16, which NumPy cannot say, and not U16."""
    if not names:
        return data
    start = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:start])
    for name in names:
        header[name]["dtype"] = "BF16"
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # tensors begin on 8 bytes
    return len(text).to_bytes(8, "little") + text + data[start:]


def load(path: str | Path, **options: Any) -> Model:
    """Read a model from a file.

    Parameters
    ----------
    path : str or Path
        A ``.safetensors`` file written by :func:`save`; an ``.onnx`` graph (which needs the extra
        ``onnx``); a ``.keras``, ``.h5`` or ``.hdf5`` file of Keras (extra ``keras``); or a
        ``.json`` file of RTNeural.
    **options
        For an ONNX file, ``shapes``, ``constants``, ``states`` and ``verify``: see
        :func:`streamrnn.importers.onnx.load_onnx`. For a Keras file, those of
        :func:`streamrnn.from_keras`.

    Returns
    -------
    Model
        With the weights of the file.

    Raises
    ------
    FileError
        If the file is missing, truncated, corrupt, of a newer format, or of another kind; if it
        names an op or an argument that is unknown, or its tensors are not those of its ops.
    """
    path = _as_path(path)
    if path.suffix == ".onnx":
        return _load_onnx(path, options)
    if path.suffix in KERAS_SUFFIXES:
        return _load_keras(path, options)
    if path.suffix == ".json" and not options:
        from .importers.rtneural import from_rtneural

        return from_rtneural(path)
    if options:
        raise FileError(f"{path}: a {SUFFIX} file takes no options, got {', '.join(options)}")
    if path.suffix != SUFFIX:
        raise FileError(
            f"cannot load {path}: expected a {SUFFIX}, .onnx, .keras, .h5 or .json file, "
            f"got {path.suffix or 'none'}"
        )
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise FileError(f"{path}: larger than {MAX_FILE_BYTES >> 30} GiB")
        data = path.read_bytes()
    except OSError as error:
        raise FileError(f"cannot read {path}: {error.strerror or error}") from None
    try:
        tensors = dict(deserialize(data))  # type: ignore[no-untyped-call]
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    except (SafetensorError, ValueError, KeyError, TypeError, MemoryError, RecursionError) as error:
        raise FileError(f"{path}: not a safetensors file, or a damaged one: {error}") from None
    try:
        text = header["__metadata__"]["streamrnn"]
    except (KeyError, TypeError):
        raise FileError(
            f"{path}: holds tensors but no model of streamrnn; build the model in Python and give "
            f"it these weights with `model.load_weights(path)`"
        ) from None
    try:
        return _built(json.loads(text), tensors)
    except (
        StreamrnnError,
        ValueError,
        TypeError,
        KeyError,
        AttributeError,
        RecursionError,
    ) as error:
        said = str(error) if isinstance(error, StreamrnnError) else f"damaged header: {error!r}"
        raise FileError(f"{path}: {said}") from None


def _load_onnx(path: Path, options: Mapping[str, Any]) -> Model:
    try:
        from .importers.onnx import load_onnx
    except ImportError:
        raise FileError(f"{path}: reading ONNX needs onnx: pip install streamrnn[onnx]") from None
    unknown = options.keys() - {"shapes", "constants", "states", "verify"}
    if unknown:
        raise FileError(f"{path}: unknown option {', '.join(sorted(unknown))}")
    return load_onnx(path, **options)


def _load_keras(path: Path, options: Mapping[str, Any]) -> Model:
    from .importers.keras import from_keras

    unknown = options.keys() - {"model", "ignore_masks"}
    if unknown:
        raise FileError(f"{path}: unknown option {', '.join(sorted(unknown))}")
    model: Model = from_keras(path, **options)
    return model


Tensor = dict[str, Any]
"""A tensor in a file: ``dtype``, ``shape`` and ``data``, as safetensors gives them."""
NARROW = {"F16": "float16", "BF16": "bfloat16"}


def _array(name: str, tensor: Tensor) -> npt.NDArray[Any]:
    kind = tensor["dtype"]
    if kind not in TYPES:
        raise FileError(f"tensor {name} is {kind}; supported are {', '.join(TYPES)}")
    array = np.frombuffer(tensor["data"], TYPES[kind]).reshape(tensor["shape"])
    return widened(array, "bfloat16") if kind == "BF16" else array


def _built(header: Mapping[str, Any], tensors: dict[str, Tensor]) -> Model:
    version = header["version"]
    if version not in range(1, FORMAT_VERSION + 1) or isinstance(version, bool):
        raise FileError(
            f"format {version!r}, this version of streamrnn reads 1 to {FORMAT_VERSION}: "
            f"update streamrnn"
        )
    _only(header, {"version", "inputs", "ops", "outputs", "feedback", "metadata"}, "the header")
    values: dict[str, Value] = {}
    for name, spec in header["inputs"].items():
        _only(spec, {"shape", "dtype"}, f"input {name!r}")
        values[name] = Input(tuple(spec["shape"]), spec["dtype"])
    inputs = dict(values)
    for spec in header["ops"]:
        _only(spec, {"name", "op", "config", "reads"}, f"op {spec.get('name')!r}")
        name, kind, config = spec["name"], spec["op"], spec["config"]
        if kind not in REGISTRY:
            raise FileError(f"op {name!r} is of the unknown kind {kind!r}")
        known = {f for f, spec in REGISTRY[kind].__dataclass_fields__.items() if not spec.kw_only}
        _only(config, known, f"op {name!r} ({kind})")
        if name in values:
            raise FileError(f"two ops or inputs are named {name!r}")
        op = REGISTRY[kind](**{k: _tuples(v) for k, v in config.items()}, name=name)
        _give_weights(name, op, tensors)
        reads = [values[n] if n in values else _missing(name, n) for n in spec["reads"]]
        values[name] = op(*reads)
        _give_initial_state(name, op, op.state_shapes(*(v.shape for v in reads)), tensors)
    if tensors:
        raise FileError(f"tensors that no op uses: {', '.join(sorted(tensors))}")
    outputs = {
        n: values[v] if v in values else _missing(n, v) for n, v in header["outputs"].items()
    }
    feedback = {
        values[n] if n in values else _missing("feedback", n): values[v]
        if v in values
        else _missing(n, v)
        for n, v in header["feedback"].items()
    }
    model = Model(inputs, outputs, header["metadata"], feedback)
    unread = {spec["name"] for spec in header["ops"]} - {n.name for n in model.graph().nodes}
    if unread:
        raise FileError(f"no output depends on {', '.join(sorted(unread))}")
    return model


def _give_weights(name: str, op: Op, tensors: dict[str, Tensor]) -> None:
    """Move the op's weights out of `tensors`; matrices of two bytes say how it keeps them."""
    wanted = {f"{name}.{p}": (op, p) for p in op.parameter_shapes()}
    found = {n: tensors.pop(n) for n in wanted if n in tensors}
    kinds = {t["dtype"] for t in found.values() if len(t["shape"]) > 1}
    if len(kinds) == 1 and kinds <= NARROW.keys() and not op.needs_float32():
        op.storage = NARROW[kinds.pop()]
    weights, problems = check_weights(wanted, {n: _array(n, t) for n, t in found.items()})
    if problems:
        raise FileError(f"tensors that do not fit: {'; '.join(problems)}")
    op.weights = {own: weights[full] for full, (_, own) in wanted.items()}


def _give_initial_state(
    name: str, op: Op, shapes: dict[str, Shape], tensors: dict[str, Tensor]
) -> None:
    """Move the op's initial states, where there are any, out of `tensors`."""
    full = {s: f"{name}.{s}" if s else name for s in shapes}  # a Past's has the op's own name
    found = {s: _array(n, tensors.pop(n)) for s, n in full.items() if n in tensors}
    for state, array in found.items():
        if array.shape != shapes[state] or array.dtype != np.float32:
            raise FileError(
                f"initial state {full[state]}: expected float32 {shapes[state]}, "
                f"got {describe(array)}"
            )
        if not np.isfinite(array).all():
            raise FileError(f"initial state {full[state]}: holds a NaN or an infinity")
    if found:
        op.initial_state = found


def _missing(who: str, what: str) -> Value:
    raise FileError(f"{who!r} reads {what!r}, which comes later or does not exist")


def _only(given: Mapping[str, Any], known: set[str], where: str) -> None:
    unknown = given.keys() - known
    if unknown:
        raise FileError(f"{where} has the unknown key {', '.join(map(repr, sorted(unknown)))}")


def _tuples(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
