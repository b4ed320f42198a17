"""Pictures of a video file or a camera."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import ConfigError, SourceError
from .source import Frame, Source, needed, now_s

__all__ = ["Camera", "Video"]


CAMERAS = {
    "linux": ("v4l2", "/dev/video{}"),
    "darwin": ("avfoundation", "{}"),
    "win32": ("dshow", "video={}"),
}
"""What FFmpeg calls a camera."""


class Video(Source):
    """Pictures of a video file, grey or coloured, in [0, 1] (extra ``live``: PyAV).

    Packets that cannot be decoded are dropped, ``garbage``.

    Parameters
    ----------
    path : str or Path
        The file, or what else FFmpeg opens.
    height, width : int
        The size that pictures are scaled to.
    channels : int
        1 (grey) or 3 (RGB): a frame is float32 [shape=(channels, height, width)].
    input_format : str, optional
        FFmpeg's name of what is opened: ``"v4l2"`` makes ``/dev/video0`` a camera.

    Raises
    ------
    SourceError
        If it holds no video, or PyAV is missing.
    """

    def __init__(
        self,
        path: str | Path,
        height: int,
        width: int,
        channels: int = 3,
        input_format: str | None = None,
    ) -> None:
        super().__init__(str(path))
        if channels not in (1, 3) or height < 1 or width < 1:
            raise ConfigError(
                f"expected 1 or 3 channels and a positive size, got {channels}, {height} x {width}"
            )
        self._av = needed("av", "live", self.name)
        self.shape = (channels, height, width)
        try:
            self._file: Any = self._av.open(self.name, format=input_format)
        except (self._av.error.FFmpegError, ValueError) as error:
            raise SourceError(f"{path}: cannot read it as video: {error}") from None
        if not self._file.streams.video:
            self._file.close()
            raise SourceError(f"{path}: it has no pictures")

    def _read(self) -> Iterator[Frame]:
        channels, height, width = self.shape
        kind = "gray" if channels == 1 else "rgb24"
        for t, picture in enumerate(self._pictures()):
            small = picture.reformat(width=width, height=height, format=kind).to_ndarray()
            data = np.ascontiguousarray(small.reshape(height, width, channels).transpose(2, 0, 1))
            yield Frame(self._time_s(t, picture), data.astype(np.float32) / np.float32(255))

    def _time_s(self, t: int, picture: Any) -> float:
        return float(t) if picture.time is None else float(picture.time)

    def _pictures(self) -> Iterator[Any]:
        packets = self._file.demux(self._file.streams.video[0])
        while True:
            try:
                packet = next(packets, None)
                pictures = () if packet is None else packet.decode()
            except self._av.error.EOFError:
                return
            except self._av.error.FFmpegError as error:
                self.count("garbage", why=error)
                continue
            if packet is None:
                return
            yield from pictures

    def _close(self) -> None:
        self._file.close()


class Camera(Video):
    """Pictures of a camera, each at the time when it came (extra ``live``: PyAV).

    Parameters
    ----------
    device : str
        Its number, or what the system calls it: ``"0"`` is ``/dev/video0`` on Linux.
    height, width, channels
        As for :class:`Video`.

    Raises
    ------
    SourceError
        If there is no such camera, or PyAV is missing; while reading, if it is unplugged.
    """

    def __init__(self, device: str, height: int, width: int, channels: int = 3) -> None:
        known = CAMERAS.get(sys.platform)
        if known is None:
            raise SourceError(f"camera {device}: cameras are not known on {sys.platform}")
        kind, pattern = known
        path = pattern.format(device) if "/" not in device else device
        try:
            super().__init__(path, height, width, channels, input_format=kind)
        except SourceError as error:
            raise SourceError(f"camera {device}: cannot open it: {error}") from None
        self.name = f"camera {device}"
        self._reading = False

    def _read(self) -> Iterator[Frame]:
        self._reading = True
        try:
            for frame in super()._read():
                if self.closed:
                    return
                yield frame
        finally:
            self._file.close()  # by whoever reads, and never while it is read

    def _close(self) -> None:
        if not self._reading:
            self._file.close()

    def _time_s(self, t: int, picture: Any) -> float:
        return now_s()

    def _pictures(self) -> Iterator[Any]:
        yield from super()._pictures()
        if self.closed:
            return
        raise SourceError(f"{self.name}: the connection broke")
