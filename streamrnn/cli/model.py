"""The model that ``streamrnn run`` runs, in either engine, and what it says of its frames."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import ConfigError
from ..files import load
from ..layer import Layer, Sequential
from ..stream import BaseStream
from .known import Known, rate_of, recognised

__all__ = ["ENGINES", "Loaded", "load_model"]

ENGINES = ("streamrnn", "onnxruntime")


@dataclass
class Loaded:
    """A model, and which frames it reads.

    Parameters
    ----------
    stream : Stream or OnnxStream
        Runs it.
    layer : Layer or None
        The model itself; None in onnxruntime.
    metadata : dict
        Its notes.
    known : Known
        What is known of it from elsewhere.
    constants : dict
        Inputs that never change.
    others : dict
        Inputs that come from elsewhere than the source.
    """

    stream: BaseStream
    layer: Layer | None
    metadata: Mapping[str, Any]
    known: Known = field(default_factory=Known)
    constants: Mapping[str, Any] = field(default_factory=dict)
    others: Mapping[str, Any] = field(default_factory=dict)

    @property
    def inputs(self) -> dict[str, Any]:
        """The model's inputs, by name."""
        program = self.stream.program
        return dict(zip(program.input_names, program.inputs, strict=True))

    @property
    def fed(self) -> dict[str, Any]:
        """The inputs that the source feeds."""
        return {name: value for name, value in self.inputs.items() if name not in self.others}

    @property
    def sample_rate_hz(self) -> float | None:
        """The rate of the samples that it hears, as its notes or constants say."""
        said = self.metadata.get("sample_rate") or self.known.sample_rate_hz
        return float(said) if said else rate_of(self.constants)

    @property
    def hop(self) -> int | None:
        """New samples in each frame, where it says so."""
        said = self.metadata.get("hop_samples") or self.known.hop
        return int(said) if said else None

    @property
    def columns(self) -> list[str]:
        """Names of the numbers that it makes: its labels, or its outputs' names with a number.

        One that is taken, or that of the time's column, gets an underscore.
        """
        labels = list(self.metadata.get("labels") or self.known.labels)
        names: list[str] = []
        program = self.stream.program
        for name, value in zip(program.output_names, program.outputs, strict=True):
            if value.size == len(labels):
                names += labels
                labels = []
            else:
                names += [name] if value.size == 1 else [f"{name}_{i}" for i in range(value.size)]
        different: dict[str, None] = {"time_s": None}
        for name in names:
            while name in different:
                name += "_"
            different[name] = None
        return list(different)[1:]

    @property
    def output_shape(self) -> tuple[int, ...]:
        """Shape of an output; several are flat, side by side."""
        program = self.stream.program
        return program.outputs[0].shape if len(program.outputs) == 1 else (program.output_size,)

    def hear(self) -> None:
        """Put the front end that the notes name in front, so that the model takes samples."""
        from ..frontend import from_features

        features = self.metadata.get("features")
        if features is None:
            return
        if self.layer is None:
            raise ConfigError(
                "the model names a front end, which is not in its graph: "
                "streamrnn export --with-frontend puts it there"
            )
        self.layer = Sequential(from_features(features), self.layer)
        self.stream = self.layer.stream(self.stream.on_nonfinite)
        rate = self.metadata.get("sample_rate") or features.get("sample_rate_hz")
        self.metadata = {**self.metadata, **({"sample_rate": rate} if rate else {})}


def load_model(
    path: Path, options: Mapping[str, Any], engine: str, on_nonfinite: str = "raise"
) -> Loaded:
    """Return a model, ready to run.

    Parameters
    ----------
    path : Path
        Its file.
    options : dict
        As `reading` returns them; where none is given, models that are known get theirs.
    engine : str
        ``"streamrnn"`` or ``"onnxruntime"``.
    on_nonfinite : str
        As for :meth:`streamrnn.Layer.stream`.

    Raises
    ------
    FileError, ConfigError
        If it cannot be loaded, or there is no such engine.
    """
    known = Known()
    if path.suffix == ".onnx" and not any(options.values()):
        known = recognised(path)
        options = {**options, **known.options}
    constants = options.get("constants") or {}
    if engine == "streamrnn":
        layer = load(path, **options)
        return Loaded(layer.stream(on_nonfinite), layer, layer.metadata, known, constants)
    if engine != "onnxruntime":
        raise ConfigError(f"--engine must be one of {', '.join(ENGINES)}, got {engine!r}")
    if path.suffix != ".onnx":
        raise ConfigError(f"{path}: onnxruntime runs .onnx files: streamrnn export makes one")
    from ..export import OnnxStream

    stream = OnnxStream(path, on_nonfinite=on_nonfinite, **options)
    return Loaded(stream, None, _notes(stream), known, constants)


def _notes(stream: Any) -> dict[str, Any]:
    """Return the notes in an ONNX file that this command reads."""
    texts, notes = stream.program.session.get_modelmeta().custom_metadata_map, {}
    for key in ("sample_rate", "hop_samples", "labels", "features"):
        try:
            notes[key] = json.loads(texts[key])
        except (KeyError, ValueError):  # another program's note of the same name
            continue
    return notes
