"""Front ends: from blocks of samples to features, and back; layers made of the library's ops.

A frame of a front end is one hop: the next ``hop_length`` samples of the signal. So a stream is
given samples as they come from a sound card, in blocks, and all that is behind runs once a hop.
"""

from .described import from_features
from .features import PCEN, WithDeltas, standardize
from .framing import Frames, FrontEnd, PreEmphasis, RemoveMean
from .mel import MFCC, Decibels, LogMel, Mel
from .resample import Resampler
from .spectrum import ISTFT, STFT, Magnitude, Phase, Power
from .timestamps import FixedRate

__all__ = [
    "Decibels",
    "FixedRate",
    "Frames",
    "FrontEnd",
    "ISTFT",
    "LogMel",
    "MFCC",
    "Magnitude",
    "Mel",
    "PCEN",
    "Phase",
    "Power",
    "PreEmphasis",
    "RemoveMean",
    "Resampler",
    "STFT",
    "WithDeltas",
    "from_features",
    "standardize",
]
