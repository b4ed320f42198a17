"""How the examples train: gradients clipped, weights decaying, stopped when it no longer helps."""

from __future__ import annotations

import copy
import math
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

try:
    import torch
    from torch import nn
except ImportError as _error:
    from command import INSTALL

    sys.exit(f"{Path(sys.argv[0]).name}: {_error}: {INSTALL}")

__all__ = ["fit", "nn", "torch"]

Pair = Sequence[torch.Tensor]


def fit(
    make: Callable[[], nn.Module],
    loss: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
    training: Pair,
    validation: Pair,
    epochs: int,
    seed: int,
) -> nn.Module:
    """Return a trained network, in evaluation mode, with the weights best on the validation data.

    It stops early when ten epochs in a row were no better.

    Parameters
    ----------
    make : callable
        Returns the network.
    loss : callable
        Of the network's outputs and what they should have been.
    training, validation : sequence of Tensor
        Inputs and what they should give; along axis 0 one sequence after another.
    epochs : int
        How often at most the network sees the training data.
    seed : int
        Of its first weights, the order of sequences, and dropout.
    """
    torch.set_num_threads(1)  # so small are these; two wait for each other on a busy machine
    torch.manual_seed(seed)
    network = make()
    optimizer = torch.optim.AdamW(network.parameters(), lr=3e-3, weight_decay=0.01)
    best, kept, waited, epoch = math.inf, network.state_dict(), 0, 0
    while epoch < epochs and waited < 10:
        network.train()
        for rows in torch.randperm(len(training[0])).split(32):
            optimizer.zero_grad()
            loss(network(training[0][rows]), training[1][rows]).backward()
            nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            optimizer.step()
        network.eval()
        with torch.no_grad():
            now = float(loss(network(validation[0]), validation[1]))
        epoch, waited = epoch + 1, waited + 1
        if now < best:
            best, kept, waited = now, copy.deepcopy(network.state_dict()), 0
    network.load_state_dict(kept)
    print(
        f"Trained for {epoch} epochs; smallest loss on the validation data {best:.3g}", flush=True
    )
    return network
