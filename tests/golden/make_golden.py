"""Write ``torch_cells.npz``: what torch computes, for the tests that run without torch.

Run it by hand, with torch installed::

    python tests/golden/make_golden.py

Everything is seeded, torch computes in float64 from float32 weights, and outputs are kept as
float32: the file is the same each time up to rounding. Arrays are named ``case/what``: ``x``, ``y``,
``h_last`` (and ``c_last``), and ``weights/…`` under torch's names.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

T = 40


def randomised(module: Any) -> Any:
    """Give a module seeded weights, large enough that the gates move."""
    with torch.no_grad():
        for parameter in module.parameters():
            spread = 0.9 / parameter.shape[-1] ** 0.5 if parameter.ndim > 1 else 0.5
            centre = 1.0 if parameter.ndim == 1 and isinstance(module, torch.nn.LayerNorm) else 0.0
            parameter.copy_(centre + spread * torch.randn(parameter.shape))
    return module


def main() -> None:
    """Write the file."""
    torch.manual_seed(20240229)
    arrays: dict[str, np.ndarray] = {}

    def keep(case: str, module: Any, **data: Any) -> None:
        for name, tensor in module.state_dict().items():
            arrays[f"{case}/weights/{name}"] = tensor.float().numpy()
        for name, tensor in data.items():
            arrays[f"{case}/{name}"] = tensor.detach().float().numpy()

    for case, kind, options in (
        ("rnn_tanh", torch.nn.RNN, {}),
        ("rnn_relu", torch.nn.RNN, {"nonlinearity": "relu"}),
        ("gru", torch.nn.GRU, {}),
        ("lstm", torch.nn.LSTM, {}),
        ("gru_3_layers", torch.nn.GRU, {"num_layers": 3}),
        ("lstm_3_layers", torch.nn.LSTM, {"num_layers": 3}),
        ("gru_no_bias", torch.nn.GRU, {"bias": False}),
    ):
        module = randomised(kind(5, 11, **options))
        x = 1.5 * torch.randn(T, 5)
        y, last = module.double()(x.double())
        states = dict(zip(("h_last", "c_last"), last if isinstance(last, tuple) else (last,)))
        keep(case, module, x=x, y=y, **states)

    for case, options in (
        ("conv1d", {}),
        ("conv1d_strided", {"stride": 3}),
        ("conv1d_dilated", {"dilation": 4}),
        ("conv1d_groups", {"groups": 2, "bias": False}),
    ):
        module = randomised(torch.nn.Conv1d(6, 10, 3, **options))
        x = torch.randn(T, 6)
        left = 2 * options.get("dilation", 1)
        padded = torch.nn.functional.pad(x.T[None].double(), (left, 0))
        keep(case, module, x=x, y=module.double()(padded)[0].T)

    module = randomised(torch.nn.LayerNorm(21))
    x = 3 + torch.randn(T, 21)
    keep("layer_norm", module, x=x, y=module.double()(x.double()))

    path = Path(__file__).parent / "torch_cells.npz"
    np.savez_compressed(path, **arrays)
    print(f"{path}: {path.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
