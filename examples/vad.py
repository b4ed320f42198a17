"""Detect speech in a recording, frame by frame as if live; draw it; export the model to ONNX.

Without arguments it takes 30 s of real speech with reference segments. Your own recording must have
16 kHz and one channel. Needs ``pip install "streamrnn[examples]"``.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import soundfile

import assets
import streamrnn as sr
from picture import draw
from recording import FRAME_S, Heard, InputError, frames, opened
from segments import DetectionError, Segment, detection_error, read_rttm
from silero import FRAME_SAMPLES, SAMPLE_RATE_HZ, build
from streamrnn import decode


def arguments(argv: list[str] | None) -> argparse.Namespace:
    """Return the command line, parsed."""
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    add("wav", nargs="?", type=Path, help="recording (default: the one with reference segments)")
    add("--reference", type=Path, metavar="RTTM", help="segments that should be found")
    add("--model", type=Path, metavar="ONNX", help="a copy of silero_vad_16k_op15.onnx")
    add("--out", type=Path, metavar="DIR", default=Path("demo"), help="for results (default: demo)")
    add("--threshold", type=_probability, metavar="P", default=0.5, help="of speech, default 0.5")
    add("--realtime", action="store_true", help="take as long as the recording lasts")
    return parser.parse_args(argv)


def _probability(text: str) -> float:
    with contextlib.suppress(ValueError):
        if 0 < float(text) < 1:
            return float(text)
    raise argparse.ArgumentTypeError(f"must be a number between 0 and 1, got {text!r}")


def reference_segments(path: Path) -> list[Segment]:
    """Return the segments that should be found; raise InputError if there is no such file."""
    try:
        return read_rttm(path)
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot read reference segments: {error}") from None


def writable(folder: Path) -> Path:
    """Make the folder if need be; raise InputError if files cannot be written to it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise InputError(f"{folder}: cannot write results there: {error}") from None
    return folder


def listen(model: sr.Model, sound: soundfile.SoundFile, args: argparse.Namespace) -> Heard:
    """Run the detector over a recording, one frame after another, and print speech as it ends."""
    heard = Heard()
    segmenter = decode.Hysteresis(1000 * FRAME_S, on=args.threshold, min_on_ms=250)
    print("Preparing the model; the first time, its kernels are compiled …", flush=True)
    stream = model.stream()
    out = np.empty(1, np.float32)
    stream.step(np.zeros(FRAME_SAMPLES, np.float32), out=out)  # warms caches
    stream.reset()
    duration_s = sound.frames / SAMPLE_RATE_HZ
    name = Path(sound.name).name
    print(f"Listening to {name}: {duration_s:.1f} s, {FRAME_S * 1000:.0f} ms at a time", flush=True)
    try:
        for frame in frames(sound, args.realtime):
            before_ns = time.perf_counter_ns()
            stream.step(frame, out=out)
            heard.latencies_us.append((time.perf_counter_ns() - before_ns) / 1000)
            heard.probabilities.append(float(out[0]))
            heard.peaks.append((float(frame.min()), float(frame.max())))
            _ended(heard, segmenter.step(out))
    except KeyboardInterrupt:
        _ended(heard, segmenter.flush())
        count = len(heard.segments)
        print(f"Interrupted after {heard.duration_s:.1f} s; segments of speech so far: {count}")
        raise
    _ended(heard, segmenter.flush(duration_s))
    if not heard.segments:
        print("  no speech")
    return heard


def _ended(heard: Heard, event: decode.Onset | decode.Segment | None) -> None:
    if isinstance(event, decode.Segment):
        segment = Segment(event.start_s, event.end_s)
        heard.segments.append(segment)
        print(f"  speech {segment.start_s:7.2f} s to {segment.end_s:7.2f} s", flush=True)


def describe_error(error: DetectionError) -> str:
    """Return the detection error in words, as a share of the reference speech."""
    percent = 100 / error.reference_s if error.reference_s else 0.0
    return (
        f"{100 * error.rate:.1f} % of {error.reference_s:.2f} s of speech "
        f"(missed {error.missed_s:.2f} s = {percent * error.missed_s:.1f} %, "
        f"false alarm {error.false_alarm_s:.2f} s = {percent * error.false_alarm_s:.1f} %)"
    )


def describe_latency(heard: Heard) -> str:
    """Return the latency of a frame, and all of them together beside the time the frames last."""
    median, p99, longest = np.percentile(heard.latencies_us, [50, 99, 100])
    return (
        f"median {median:.1f} µs, p99 {p99:.1f} µs, max {longest:.1f} µs "
        f"(real-time factor {1e-6 * sum(heard.latencies_us) / heard.duration_s:.5f})"
    )


def run(args: argparse.Namespace) -> None:
    """Do what the command line says."""
    out = writable(args.out)
    wav = args.wav or assets.speech_wav()
    rttm = args.reference or (None if args.wav else assets.speech_rttm())
    reference = reference_segments(rttm) if rttm else None
    with opened(wav) as sound:
        model = build(args.model or assets.silero_onnx())
        duration_s = sound.frames / SAMPLE_RATE_HZ
        heard = listen(model, sound, args)
    title = f"Speech in {wav.name}, found frame by frame"
    if reference is not None:
        error = detection_error(heard.segments, reference, duration_s)
        print(f"Detection error: {describe_error(error)}")
        title += f" (detection error {100 * error.rate:.1f} %)"
    print(f"Latency per frame: {describe_latency(heard)}")
    draw(out / "vad.png", title, heard, args.threshold, reference, duration_s)
    print(f"Picture: {out / 'vad.png'}")
    from streamrnn.export import to_onnx

    with opened(wav) as sound:
        heard_again = np.stack(list(itertools.islice(frames(sound, realtime=False), 1000)))
    report = to_onnx(model, out / "silero.onnx", frames=heard_again)
    print(f"ONNX file: {out / 'silero.onnx'}")
    print(report)


def main(argv: list[str] | None = None) -> int:
    """Run the command and return its exit code: 0, 2 for bad input, 130 when interrupted."""
    args = arguments(argv)
    try:
        run(args)
    except KeyboardInterrupt:
        return 130
    except (InputError, assets.AssetError, sr.StreamrnnError) as error:
        print(f"vad.py: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
