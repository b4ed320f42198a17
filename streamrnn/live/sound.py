"""Sources of sound: files, and raw samples from a pipe."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from ..errors import ConfigError, SourceError
from ..resumable import positive
from .source import Array, Frame, Source, needed

__all__ = ["ENCODINGS", "Pcm", "SoundFile", "samples"]

ENCODINGS = {"s16le": "<i2", "f32le": "<f4"}
"""Raw samples: 16-bit integers, full scale 32768, and float32; both little-endian."""


class SoundFile(Source):
    """Samples of a sound file: WAV, FLAC, OGG, MP3, … (extra ``audio``: soundfile).

    Full scale is 1. A file that breaks off, or whose header gives another length, gives what is
    there, ``truncated``; one without samples gives no frame.

    Parameters
    ----------
    path : str or Path
        The file.
    block : int
        Samples read at once.

    Raises
    ------
    SourceError
        If it cannot be read as sound, or soundfile is missing.
    """

    def __init__(self, path: str | Path, block: int = 1024) -> None:
        super().__init__(str(path))
        soundfile = needed("soundfile", "audio", self.name)
        if Path(path).is_dir():
            raise SourceError(f"{path}: is a folder, expected a sound file")
        if not Path(path).is_file():
            raise SourceError(f"{path}: no such file")
        try:
            self._file: Any = soundfile.SoundFile(path)
        except (OSError, soundfile.LibsndfileError) as error:
            raise SourceError(f"{path}: cannot read it as sound: {error}") from None
        self._broken = soundfile.LibsndfileError
        self.block, self.sample_rate_hz = block, float(self._file.samplerate)
        wrong = [line for line in self._file.extra_info.splitlines() if "(should be" in line]
        if wrong:  # what libsndfile says of a length in the header that is not the file's
            self.count("truncated", why=" ".join(wrong[-1].split()))

    def _read(self) -> Iterator[Frame]:
        at, promised = 0, self._file.frames
        while True:
            try:
                data = self._file.read(self.block, "float32", always_2d=True)
            except self._broken as error:
                self.count("truncated", why=f"after {at} samples: {error}")
                return
            if not len(data):
                break
            yield Frame(at / self._file.samplerate, data)
            at += len(data)
        if at < promised < 2**62:  # streams say that they have no end
            self.count("truncated", why=f"{at} of {promised} samples")

    def _close(self) -> None:
        self._file.close()


class Pcm(Source):
    """Raw samples from a pipe, such as standard input.

    Bytes at the end that are no whole sample of all channels are dropped, ``half_frames``.

    Parameters
    ----------
    file : binary file
        Where bytes are read from; it is not closed.
    sample_rate_hz : float
        As the sender has it: bytes do not say it.
    encoding : str
        ``"s16le"`` or ``"f32le"``.
    channels : int
        Of the signal; their samples alternate.
    block : int
        Samples read at once.

    Raises
    ------
    ConfigError
        If the encoding is unknown, or a number is not positive.
    """

    def __init__(
        self,
        file: BinaryIO,
        sample_rate_hz: float,
        encoding: str = "s16le",
        channels: int = 1,
        block: int = 512,
    ) -> None:
        super().__init__("standard input")
        if encoding not in ENCODINGS:
            known = ", ".join(ENCODINGS)
            raise ConfigError(f"`encoding` must be one of {known}, got {encoding!r}")
        positive("Pcm", "sample_rate_hz", sample_rate_hz)
        positive("Pcm", "channels", channels, whole=True)
        positive("Pcm", "block", block, whole=True)
        self.sample_rate_hz = sample_rate_hz
        self.file, self.encoding, self.channels, self.block = file, encoding, channels, block

    def _read(self) -> Iterator[Frame]:
        assert self.sample_rate_hz is not None
        size = np.dtype(ENCODINGS[self.encoding]).itemsize * self.channels
        at = 0
        while data := self._bytes(self.block * size):
            if len(data) % size:
                self.count("half_frames", why=f"{len(data) % size} bytes at the end")
            block = samples(data[: len(data) - len(data) % size], self.encoding, self.channels)
            if len(block):
                yield Frame(at / self.sample_rate_hz, block)
            at += len(block)

    def _bytes(self, n: int) -> bytes:
        """Return n bytes, fewer at the end; a pipe may give them piece by piece."""
        parts, missing = [], n
        while missing and (part := self.file.read(missing)):
            parts.append(part)
            missing -= len(part)
        return b"".join(parts)


def samples(data: bytes, encoding: str, channels: int = 1) -> Array:
    """Return raw samples as float32 [shape=(n, channels)], full scale 1."""
    numbers = np.frombuffer(data, ENCODINGS[encoding]).reshape(-1, channels)
    block: Array = numbers.astype(np.float32)
    return block / np.float32(32768) if encoding == "s16le" else block
