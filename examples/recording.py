"""A recording as it would come from a microphone: one frame after another."""

from __future__ import annotations

import shlex
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
import soundfile

from segments import Segment
from silero import FRAME_SAMPLES, SAMPLE_RATE_HZ

__all__ = ["FRAME_S", "Heard", "InputError", "frames", "opened"]

FRAME_S = FRAME_SAMPLES / SAMPLE_RATE_HZ
LONG_S = 600
"""Recordings longer than this get a progress bar."""


class InputError(Exception):
    """Something that the user gave cannot be used; the message is one sentence."""


@dataclass
class Heard:
    """What is known of a recording so far.

    Parameters
    ----------
    probabilities : list of float
        Of speech, one per frame, dimensionless.
    peaks : list of (float, float)
        Smallest and largest sample of each frame; full scale is 1.
    latencies_us : list of float
        How long the model took for each frame.
    segments : list of Segment
        Speech that has ended.
    """

    probabilities: list[float] = field(default_factory=list)
    peaks: list[tuple[float, float]] = field(default_factory=list)
    latencies_us: list[float] = field(default_factory=list)
    segments: list[Segment] = field(default_factory=list)

    @property
    def duration_s(self) -> float:
        """Time that the frames last."""
        return len(self.probabilities) * FRAME_S


def opened(path: Path) -> soundfile.SoundFile:
    """Open a recording (to be closed by the caller) that the model can take.

    Raises
    ------
    InputError
        If it cannot be read, has another sample rate, several channels or no samples.
    """
    if not path.exists():
        raise InputError(f"{path}: no such file")
    try:
        sound = soundfile.SoundFile(path)
    except (OSError, soundfile.LibsndfileError) as error:
        raise InputError(f"{path}: cannot read it as a sound file: {error}") from None
    sox = f"sox {shlex.quote(str(path))} -r {SAMPLE_RATE_HZ} -c 1 out.wav"
    problem = ""
    if sound.samplerate != SAMPLE_RATE_HZ:
        problem = (
            f"expected {SAMPLE_RATE_HZ} Hz, got {sound.samplerate} Hz: convert it, e.g. `{sox}`"
        )
    elif sound.channels != 1:
        problem = f"expected one channel, got {sound.channels}: mix it down, e.g. `{sox}`"
    elif sound.frames == 0:
        problem = "holds no samples"
    if problem:
        sound.close()
        raise InputError(f"{path}: {problem}")
    return sound


def frames(sound: soundfile.SoundFile, realtime: bool) -> Iterator[npt.NDArray[np.float32]]:
    """Yield 32 ms at a time, the last frame filled up with zeros.

    Parameters
    ----------
    sound : soundfile.SoundFile
        A recording from :func:`opened`.
    realtime : bool
        Whether to wait until a microphone would have delivered the frame.

    Yields
    ------
    float32 [shape=(512,)]
        Samples; full scale is 1.

    Raises
    ------
    InputError
        If the file is damaged, or holds a NaN or an infinity.
    """
    from rich.progress import track

    blocks = sound.blocks(FRAME_SAMPLES, dtype="float32", fill_value=0.0)
    total = -(-sound.frames // FRAME_SAMPLES)
    shown = sys.stdout.isatty() and (realtime or total * FRAME_S > LONG_S)
    begin_s = time.perf_counter()
    try:
        for i, block in enumerate(track(blocks, "listening", total, disable=not shown)):
            if not np.isfinite(block).all():
                raise InputError(f"{sound.name}: a NaN or an infinity at {i * FRAME_S:.2f} s")
            if realtime:
                time.sleep(max(0.0, begin_s + (i + 1) * FRAME_S - time.perf_counter()))
            yield block
    except soundfile.LibsndfileError as error:
        raise InputError(f"{sound.name}: damaged: {error}") from None
