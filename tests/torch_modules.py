"""Modules that torch exports to ONNX for the tests: ``python torch_modules.py NAME EXPORTER PATH``.

In a process of its own: torch 2.13 fixes the length of a sequence when it exports a GRU for the
second time.
"""

import sys
import warnings

import torch
from torch import nn


class Tagger(nn.Module):
    """Two layers of GRU, a layer norm, a reshape with the length in it."""

    example = (1, 60, 8)

    def __init__(self):
        super().__init__()
        self.front = nn.Linear(8, 12)
        self.norm = nn.LayerNorm(12)
        self.gru = nn.GRU(12, 16, 2, batch_first=True)
        self.back = nn.Linear(16, 4)

    def forward(self, x):
        b, t, _ = x.shape
        z = torch.nn.functional.gelu(self.norm(self.front(x)))
        y, _ = self.gru(z)
        y = self.back(y).reshape(b, t, 2, 2)
        return torch.softmax(y, -1).flatten(2) * torch.sigmoid(z[..., :4])


class Classifier(nn.Module):
    """Answers from the last frame."""

    example = (1, 30, 8)

    def __init__(self):
        super().__init__()
        self.lstm = nn.LSTM(8, 16, 2, batch_first=True)
        self.out = nn.Linear(16, 3)

    def forward(self, x):
        y, _ = self.lstm(x)
        return torch.log_softmax(self.out(y[:, -1]), -1)


def export(name: str, exporter: str, path: str) -> None:
    """Export a module with an open time axis with one of torch's two exporters."""
    torch.manual_seed(0)
    module = {"Tagger": Tagger, "Classifier": Classifier}[name]().eval()
    x = (torch.zeros(module.example),)
    names = {"input_names": ["x"], "output_names": ["y"]}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if exporter == "trace":
            axes = {"x": {1: "time"}}
            torch.onnx.export(module, x, path, dynamic_axes=axes, dynamo=False, **names)
        else:
            shapes = ({1: torch.export.Dim("time", min=2, max=5000)},)
            torch.onnx.export(module, x, path, dynamic_shapes=shapes, dynamo=True, **names)


if __name__ == "__main__":
    export(*sys.argv[1:])
