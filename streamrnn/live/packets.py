"""Frames of a fixed number of bytes in a stream of bytes, found again when some were lost."""

from __future__ import annotations

import binascii
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from ..errors import ConfigError
from ..resumable import positive
from .sound import ENCODINGS

__all__ = ["CHECKSUMS", "Packets"]


def _xor8(data: bytes) -> int:
    return int(np.bitwise_xor.reduce(np.frombuffer(data, np.uint8)))


CHECKSUMS: dict[str, tuple[int, Callable[[bytes], int]]] = {
    "none": (0, lambda data: 0),
    "sum8": (1, lambda data: sum(data) & 0xFF),
    "xor8": (1, _xor8),
    "crc16": (2, lambda data: binascii.crc_hqx(data, 0)),
    "crc32": (4, zlib.crc32),
}
"""Bytes of a checksum, and how it is computed; crc16 is that of XMODEM."""


@dataclass(frozen=True)
class Packets:
    """How numbers are packed: a header, the numbers, a checksum of the numbers.

    A frame is where the header is and the checksum fits; bytes between frames are skipped. With
    neither header nor checksum the bytes are counted off from the first one on, and one that is
    lost shifts all others unnoticed.

    Parameters
    ----------
    size : int
        Numbers in a frame.
    encoding : str
        ``"f32le"``, or ``"s16le"`` (full scale 1).
    header : bytes
        With which each frame begins.
    checksum : str
        ``"none"``, ``"sum8"``, ``"xor8"``, ``"crc16"`` or ``"crc32"``, little-endian.

    Raises
    ------
    ConfigError
        If one of these is another.
    """

    size: int
    encoding: str = "f32le"
    header: bytes = b""
    checksum: str = "none"

    def __post_init__(self) -> None:
        positive("Packets", "size", self.size, whole=True)
        for name, value, known in (
            ("encoding", self.encoding, ENCODINGS),
            ("checksum", self.checksum, CHECKSUMS),
        ):
            if value not in known:
                raise ConfigError(
                    f"Packets: `{name}` must be one of {', '.join(known)}, got {value!r}"
                )
        if not isinstance(self.header, bytes):
            raise ConfigError(f"Packets: `header` must be bytes, got {self.header!r}")

    @property
    def length(self) -> int:
        """Bytes of a frame, all included."""
        return len(self.header) + self._numbers + CHECKSUMS[self.checksum][0]

    @property
    def _numbers(self) -> int:
        return self.size * np.dtype(ENCODINGS[self.encoding]).itemsize

    def found(self, data: bytearray) -> Iterator[tuple[int, bytes]]:
        """Take frames off the front of `data`, until what is left may be the first part of one.

        Yields
        ------
        (int, bytes)
            How many bytes were skipped before the frame, and its numbers; no numbers where bytes
            were skipped and no frame has come yet.
        """
        skipped, first = 0, len(self.header)
        while len(data) >= self.length:
            body = bytes(data[first : first + self._numbers])
            sum_at = first + self._numbers
            said = int.from_bytes(data[sum_at : self.length], "little")
            if data.startswith(self.header) and said == CHECKSUMS[self.checksum][1](body):
                del data[: self.length]
                yield skipped, body
                skipped = 0
            else:
                ahead = self._next_header(data)
                del data[:ahead]
                skipped += ahead
        if skipped:
            yield skipped, b""

    def _next_header(self, data: bytearray) -> int:
        """Return where the next header may begin, from 1 on."""
        at = data.find(self.header, 1)
        if at >= 0:
            return at
        part = len(self.header) - 1
        while part and not data.endswith(self.header[:part]):
            part -= 1
        return max(1, len(data) - part)
