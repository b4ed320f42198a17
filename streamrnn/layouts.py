"""Weights of recurrent cells from other layouts than torch's: Keras, TensorFlow 1, your own.

Elsewhere the matrices of a cell are often (inputs, gates), the gates in another order, both
matrices one, or 1 is added to the forget gate at run time. These functions return the weights by
torch's names, as ``load_state_dict`` takes them. Gates are letters: i input, f forget, o output, g
the candidate of an LSTM (TensorFlow 1 calls it j); r reset, z update (elsewhere u), n the candidate
of a GRU.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from .errors import ConfigError, WeightError
from .ops.cell import reorder

__all__ = ["gru_weights", "lstm_weights", "rnn_weights"]

Array = npt.NDArray[Any]


def lstm_weights(
    kernel: Any,
    recurrent_kernel: Any,
    bias: Any = None,
    *,
    gate_order: str = "ifgo",
    forget_bias: float = 0.0,
) -> dict[str, Array]:
    """Return the weights of an :class:`LSTMCell` from matrices whose columns are gates.

    TensorFlow 1 keeps both matrices in one, ``kernel[:I]`` and ``kernel[I:]``, its order i, j, f, o
    is ``gate_order="igfo"``, and it adds ``forget_bias=1.0`` at run time.

    Parameters
    ----------
    kernel : array [shape=(I, 4H)]
        Weights of the frame.
    recurrent_kernel : array [shape=(H, 4H)]
        Weights of the hidden state; (P, 4H) where a projection follows.
    bias : array [shape=(4H,) or (2, 4H)], optional
        One bias, or those of frame and state.
    gate_order : str
        The letters i, f, g, o in the order of the columns; ``"ifgo"`` is Keras'.
    forget_bias : float
        Added to the bias of the forget gate.

    Returns
    -------
    dict of str to array
        ``weight_ih`` (4H, I), ``weight_hh`` (4H, H), ``bias_ih`` and ``bias_hh`` (4H,).

    Raises
    ------
    ConfigError
        If `gate_order` is no order of the four letters.
    WeightError
        If shapes do not fit together.
    """
    weights = _weights("lstm_weights", "ifgo", gate_order, kernel, recurrent_kernel, bias)
    H = len(weights["bias_ih"]) // 4
    weights["bias_ih"][H : 2 * H] += forget_bias
    return weights


def gru_weights(
    kernel: Any, recurrent_kernel: Any, bias: Any = None, *, gate_order: str = "zrn"
) -> dict[str, Array]:
    """Return the weights of a :class:`GRUCell` from matrices whose columns are gates.

    TensorFlow 1 keeps gates (order r, u) and candidate apart, and its reset acts before the
    product: join their columns, ``gate_order="rzn"``, and use ``GRUCell(…, reset_after=False)``.

    Parameters
    ----------
    kernel : array [shape=(I, 3H)]
        Weights of the frame.
    recurrent_kernel : array [shape=(H, 3H)]
        Weights of the hidden state.
    bias : array [shape=(3H,) or (2, 3H)], optional
        One bias, or those of frame and state.
    gate_order : str
        The letters r, z, n in the order of the columns; ``"zrn"`` is Keras'.

    Returns
    -------
    dict of str to array
        ``weight_ih`` (3H, I), ``weight_hh`` (3H, H), ``bias_ih`` and ``bias_hh`` (3H,).

    Raises
    ------
    ConfigError
        If `gate_order` is no order of the three letters.
    WeightError
        If shapes do not fit together.
    """
    return _weights("gru_weights", "rzn", gate_order, kernel, recurrent_kernel, bias)


def rnn_weights(kernel: Any, recurrent_kernel: Any, bias: Any = None) -> dict[str, Array]:
    """Return the weights of an :class:`RNNCell` from transposed matrices.

    Parameters
    ----------
    kernel : array [shape=(I, H)]
        Weights of the frame.
    recurrent_kernel : array [shape=(H, H)]
        Weights of the hidden state.
    bias : array [shape=(H,) or (2, H)], optional
        One bias, or those of frame and state.

    Returns
    -------
    dict of str to array
        ``weight_ih`` (H, I), ``weight_hh`` (H, H), ``bias_ih`` and ``bias_hh`` (H,).

    Raises
    ------
    WeightError
        If shapes do not fit together.
    """
    return _weights("rnn_weights", "h", "h", kernel, recurrent_kernel, bias)


def _weights(
    who: str, wanted: str, order: str, kernel: Any, recurrent: Any, bias: Any
) -> dict[str, Array]:
    """Return transposed matrices and two biases, the gates in the wanted order."""
    if not isinstance(order, str) or sorted(order) != sorted(wanted):
        raise ConfigError(f"{who}: `gate_order` must be an order of {wanted!r}, got {order!r}")
    w, r = np.asarray(kernel), np.asarray(recurrent)
    rows = w.shape[-1] if w.ndim else 0
    biases = np.zeros((1, rows), w.dtype) if bias is None else np.asarray(bias)
    biases = biases[None] if biases.ndim == 1 else biases
    fits = w.ndim == r.ndim == 2 and r.shape[1] == rows and rows > 0
    if not fits or rows % len(wanted) or biases.shape not in ((1, rows), (2, rows)):
        raise WeightError(
            f"{who}: expected matrices (I, {len(wanted)}H) and (H, {len(wanted)}H) and a bias of "
            f"as many columns, got {w.shape}, {r.shape} and "
            f"{'none' if bias is None else np.shape(bias)}"
        )
    second = biases[1] if len(biases) == 2 else np.zeros_like(biases[0])
    parts = {"weight_ih": w.T, "weight_hh": r.T, "bias_ih": biases[0], "bias_hh": second}
    return {name: reorder(a, order, wanted) for name, a in parts.items()}
