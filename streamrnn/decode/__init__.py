"""From scores to tokens: generation by a stream whose output feeds its input.

A decoder is any model that reads a token and makes a score for each possible next one. The scores
are logits: their softmax is the distribution of the next token. Log-probabilities are logits too;
for a model that ends in probabilities, put the logarithm behind it: ``Sequential(model, Log())``.

- :func:`generate` yields one token after another, as they come: the most probable ones
  (:class:`Greedy`) or random ones (:class:`Sample`: temperature, top-k, top-p).
- :func:`beam_search` follows several hypotheses and returns the best ones.
- :func:`hand_over` begins a decoder with the states that an encoder ended with.
"""

from .beam import Hypothesis, beam_search
from .choose import Greedy, Sample
from .encoder import hand_over
from .generate import Chosen, generate
from .hysteresis import Hysteresis, Onset, Segment

__all__ = [
    "Chosen",
    "Greedy",
    "Hypothesis",
    "Hysteresis",
    "Onset",
    "Sample",
    "Segment",
    "beam_search",
    "generate",
    "hand_over",
]
