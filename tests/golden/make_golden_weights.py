"""Write ``torch_model.safetensors`` and ``torch_model.npz``: a module's weights, and its output.

Run it by hand, with torch installed::

    python tests/golden/make_golden_weights.py

The weights are those of a ``torch.nn.Sequential`` inside a module, as ``safetensors.torch`` saves
them, the counter of the batch normalisation and an unused head included; torch computes ``y`` in
float64. Everything is seeded.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import nn


class Net(nn.Module):
    """A chain that ``streamrnn.Sequential`` can hold, in ``body``; and a head that is not used."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(5, 12), nn.BatchNorm1d(12), nn.ReLU(), nn.Linear(12, 8))
        self.rnn = nn.GRU(8, 9, num_layers=2)
        self.head = nn.Linear(9, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the recurrent layer's output for x (T, 5)."""
        return self.rnn(self.body(x))[0]


def main() -> None:
    """Write the files."""
    torch.manual_seed(20240229)
    net = Net().eval()
    net.body[1].running_mean.normal_()
    net.body[1].running_var.uniform_(0.5, 1.5)
    folder = Path(__file__).parent
    save_file(net.state_dict(), folder / "torch_model.safetensors")
    x = torch.randn(20, 5)
    with torch.no_grad():
        y = net.double()(x.double())
    np.savez(folder / "torch_model.npz", x=x.numpy(), y=y.float().numpy())


if __name__ == "__main__":
    main()
