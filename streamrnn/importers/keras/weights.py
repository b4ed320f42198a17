"""The arrays of a Keras file by layer: the older layout goes by names, the newer by classes."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from ...errors import WeightError
from .hdf5 import Array, array_of, get, text

__all__ = ["LAYERS", "NamedWeights", "PathWeights", "Weights"]

LAYERS = ("layers", "_layer_checkpoint_dependencies")
"""The group of all layers in ``.weights.h5``; the second name was tf.keras 2.13's."""


class Weights:
    """Arrays of the layers of a file."""

    def of(self, layers: Sequence[Mapping[str, Any]]) -> dict[str, list[Array]]:
        """Return the arrays of each layer, by its name, in the order in which Keras keeps them.

        Parameters
        ----------
        layers : sequence of mapping
            The layers' configurations, all those of the model, in order.
        """
        raise NotImplementedError

    def all(self) -> dict[str, list[Array]]:
        """Return the arrays of each layer that has some, by its name in the file."""
        raise NotImplementedError

    def refuse_others(self, wanted: Sequence[str]) -> None:
        """Raise WeightError if the file has arrays of other layers."""
        others = sorted(self.all().keys() - set(wanted))
        if others:
            raise WeightError(
                f"the file has weights of {', '.join(others)}, which the model has not; its layers "
                f"are {', '.join(wanted)}"
            )


class NamedWeights(Weights):
    """The older format: groups by the layers' names, each with the names of its arrays in order."""

    def __init__(self, group: Any) -> None:
        self.group = group

    def of(self, layers: Sequence[Mapping[str, Any]]) -> dict[str, list[Array]]:
        names = set(self._names(self.group, "layer_names"))
        wanted = [str(layer["config"]["name"]) for layer in layers]
        self.refuse_others(wanted)
        return {name: self._arrays(name) if name in names else [] for name in wanted}

    def all(self) -> dict[str, list[Array]]:
        found = {n: self._arrays(n) for n in self._names(self.group, "layer_names")}
        return {name: arrays for name, arrays in found.items() if arrays}

    def _arrays(self, name: str) -> list[Array]:
        group = get(self.group, name)
        return [array_of(get(group, n)) for n in self._names(group, "weight_names")]

    def _names(self, group: Any, attribute: str) -> list[str]:
        """Return a list of texts; a long one is kept in pieces, ``weight_names0`` and so on."""
        pieces = [attribute] if attribute in group.attrs else []
        while not pieces or f"{attribute}{len(pieces) - 1}" in group.attrs:
            if pieces == [attribute]:
                break
            pieces.append(f"{attribute}{len(pieces)}")
        return [text(n) for piece in pieces for n in group.attrs.get(piece, ())]


class PathWeights(Weights):
    """The newer format: groups by the layers' classes, numbered, each with ``vars/0`` and so on."""

    def __init__(self, file: Any) -> None:
        names = [name for name in LAYERS if name in file]
        self.group = get(file, names[0]) if names else file

    def of(self, layers: Sequence[Mapping[str, Any]]) -> dict[str, list[Array]]:
        paths = _numbered([str(layer["class_name"]) for layer in layers])
        self.refuse_others(paths)
        return {
            str(layer["config"]["name"]): self._arrays(self.group, path, layer)
            for path, layer in zip(paths, layers, strict=True)
        }

    def all(self) -> dict[str, list[Array]]:
        nothing: dict[str, Any] = {"class_name": "", "config": {}}
        found = {}
        for name in self.group:
            cell = {"class_name": "LSTM" if "cell" in get(self.group, name) else ""}
            found[name] = self._arrays(self.group, name, nothing | cell)
        return {name: arrays for name, arrays in found.items() if arrays}

    def _arrays(self, parent: Any, path: str, layer: Mapping[str, Any]) -> list[Array]:
        """Return the arrays of a layer, and of the layers in it."""
        if path not in parent:
            return []  # a layer without weights
        group, kind, config = get(parent, path), layer["class_name"], layer["config"]
        arrays = []
        if "vars" in group:
            variables = get(group, "vars")
            arrays = [array_of(get(variables, n)) for n in sorted(variables, key=int)]
        if kind in ("SimpleRNN", "LSTM", "GRU"):
            arrays += self._arrays(group, "cell", {"class_name": "", "config": {}})
        for part, inner in (("cell", config.get("cell")), ("layer", config.get("layer"))):
            if isinstance(inner, Mapping):
                arrays += self._arrays(group, part, inner)
        cells = config.get("cells") or []
        if cells and "cells" in group:
            inside = get(group, "cells")
            for name, cell in zip(_numbered([c["class_name"] for c in cells]), cells, strict=True):
                arrays += self._arrays(inside, name, cell)
        return arrays


def _numbered(classes: Sequence[str]) -> list[str]:
    """Return what Keras calls objects of these classes: ``lstm``, ``dense``, ``lstm_1``."""
    seen: dict[str, int] = {}
    names = []
    for name in classes:
        snake = re.sub(r"(.)([A-Z][a-z]+)", r"\1_\2", re.sub(r"\W+", "", name))
        snake = re.sub(r"([a-z])([A-Z])", r"\1_\2", snake).lower()
        count = seen[snake] = seen.get(snake, -1) + 1
        names.append(f"{snake}_{count}" if count else snake)
    return names
