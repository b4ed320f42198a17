"""Sources of frames, sinks for results, and the loop between them.

A source is an iterator of ``Frame(time_s, data)``, sync and async, and a context manager::

    source = Windows(Checked(SoundFile("call.wav")), window=576, hop=512, sample_rate_hz=16000)
    with source, CsvSink("speech.csv", ["speech"]) as sink:
        print(run(stream, source, [sink]))

What goes wrong loses nothing else: it is counted (``source.counts``) and logged (logger
``streamrnn.live``) under these words.

================== ==============================================================================
``half_frames``    bytes of a part of a frame, dropped
``padded_samples`` zeros behind the last sample, so that the last frame is full
``truncated``      a file that holds less than it says; what is there is given
``nonfinite``      NaN or infinity, replaced by the number before it
``garbage``        a row, line, message or packet that cannot be read, or whose time is no number,
                   dropped
``misshapen``      a frame of another shape than those before, dropped
``out_of_order``   a frame older than the one before, dropped
``duplicates``     a frame of the same time as the one before, dropped
``dropped``        a frame that had waited longest when the buffer was full (``drop_oldest``)
``overruns``       the sound card had samples that nobody fetched in time
``gaps``           a time without frames or samples, longer than is bridged
``resets``         the model's state began anew behind such a time (``reset_after_s``)
``stalls``         nothing came for `timeout_s`; a SourceError
``reconnects``     a source was opened again after a SourceError, the model's state kept; or the
                   connection that outputs go to
``unsent``         lines that were left when the connection they go to had failed, or at the end
================== ==============================================================================
"""

from .buffer import Buffered, Inbox, Reconnecting
from .events import EventSink
from .outbox import MqttSender, Outbox, WebSocketSender
from .packets import Packets
from .peers import Microphone, Mqtt, Serial, WebSocket
from .run import Latencies, Meter, run
from .sinks import CsvSink, JsonSink, NpySink, Sink, TextSink, WavSink, sink_for
from .sound import Pcm, SoundFile
from .source import Frame, Source, now_s
from .stages import Checked, Joined, Regular, Windows
from .tables import Csv, Npy, Npz, Parquet, Table
from .video import Camera, Video

__all__ = [
    "Buffered",
    "Camera",
    "Checked",
    "Csv",
    "CsvSink",
    "EventSink",
    "Frame",
    "Inbox",
    "Joined",
    "JsonSink",
    "Latencies",
    "Meter",
    "Microphone",
    "Mqtt",
    "MqttSender",
    "Npy",
    "NpySink",
    "Npz",
    "Outbox",
    "Packets",
    "Parquet",
    "Pcm",
    "Reconnecting",
    "Regular",
    "Serial",
    "Sink",
    "SoundFile",
    "Source",
    "Table",
    "TextSink",
    "Video",
    "WavSink",
    "WebSocket",
    "WebSocketSender",
    "Windows",
    "now_s",
    "run",
    "sink_for",
]
