"""Take the noise out of a recording, 8 ms at a time as if live; draw it; export the model to ONNX.

DTLN (Westhausen and Meyer, 2020): one network masks the spectrum, another one the samples that come
back. Without arguments it hears real speech in the noise of a fan, which is generated.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

import assets
import command
import streamrnn as sr
from streamrnn import frontend, live

RATE_HZ, WINDOW, HOP = 16000, 512, 128


def build() -> sr.Model:
    """Return sound to sound, a hop a step: both published stages between transforms of ours."""
    noisy = sr.Input(HOP)
    spectrum = sr.RFFT(WINDOW)(frontend.Frames(WINDOW, HOP, "causal")(noisy))
    mask = sr.load(assets.dtln_onnx(1))(frontend.Magnitude()(spectrum))
    part = sr.load(assets.dtln_onnx(2))(sr.IRFFT(WINDOW)(spectrum * mask))
    clean = sr.OverlapAdd(WINDOW, HOP)(part)
    return sr.Model({"noisy": noisy}, {"clean": clean}, {"sample_rate": RATE_HZ})


def fan(n: int) -> Any:
    """Return the noise of a fan, of power 1: air, weaker above 400 Hz, and a hum of 100 Hz."""
    hertz, white = np.fft.rfftfreq(n, 1 / RATE_HZ), np.random.default_rng(0).standard_normal(n)
    air = np.fft.irfft(np.fft.rfft(white) / np.hypot(1, hertz / 400), n)
    noise = air / air.std() + (100 / RATE_HZ * np.arange(n) % 1 - 0.5)
    return noise / noise.std()


def quality(sound: Any, clean: Any) -> str:
    """Return how much louder speech is than what is wrong with it; SI: after the best gain."""
    gains = 1, sound @ clean / (clean @ clean)
    db = [10 * np.log10(np.sum((g * clean) ** 2) / np.sum((sound - g * clean) ** 2)) for g in gains]
    return f"SNR {db[0]:.1f} dB, SI-SDR {db[1]:.1f} dB"


def drawn(sounds: dict[str, Any]) -> Any:
    """Return a picture of spectrograms below each other, in the same colours."""
    figure, rows = command.figure(len(sounds), sharex=True)
    for axes, (title, sound) in zip(rows, sounds.items(), strict=True):
        sound = sound + 1e-9 * fan(len(sound))  # silence has no logarithm
        *_, image = axes.specgram(sound, Fs=RATE_HZ, vmin=-115, vmax=-50, cmap="magma")
        axes.set(title=title, xlabel="time (s)", ylabel="frequency (Hz)")
    figure.colorbar(image, ax=rows, label="power (dB/Hz)")
    return figure


def hops(path: Path) -> live.Source:
    """Return a recording of any rate and channels, as the model takes it."""
    return live.Windows(live.Checked(live.SoundFile(path)), HOP, sample_rate_hz=RATE_HZ)


def samples(path: Path) -> Any:
    """Return all of it."""
    with hops(path) as source:
        if parts := [frame.data for frame in source]:
            return np.concatenate(parts)
    raise command.InputError(f"{path}: holds no samples")


def work(args: command.Arguments) -> None:
    """Do what the command line says."""
    stream, noisy = command.ready(model := build()), args.wav or args.out / "noisy.wav"
    denoised = args.out / f"{noisy.stem}-denoised.wav"
    if args.wav is None:
        clean = samples(assets.speech_wav())
        noise = fan(len(clean)) * clean.std() / 10 ** (args.snr / 20)
        with live.WavSink(noisy, RATE_HZ) as sink:
            sink.write(live.Frame(0.0, (clean + noise).astype(np.float32)))
    with hops(noisy) as source, live.WavSink(denoised, RATE_HZ) as sink:
        print(f"{noisy} to {denoised}: {live.run(stream, source, [sink])}")
        sink.write(live.Frame(0.0, np.asarray(stream.run(np.zeros((3, HOP), np.float32)))))  # rest
    before, after = samples(noisy), samples(denoised)[WINDOW - HOP :]
    if args.wav is None:
        print(f"Before: {quality(before, clean)}\nAfter:  {quality(after, clean)}")
    command.save(drawn({"before": before, "after": after}), args.out / "denoise.png")
    command.export(model, args.out / "denoise.onnx", before[: 500 * HOP].reshape(-1, HOP))


def main(argv: list[str] | None = None) -> int:
    """Run the command and return its exit code: 0, 2 for bad input, 130 when interrupted."""
    parser = command.arguments(__doc__)
    parser.add_argument("wav", nargs="?", type=Path, help="recording (default: speech in noise)")
    command.number(parser, "--snr", 5, -40, 40, "of that, in dB")
    return command.run(work, parser.parse_args(argv))


if __name__ == "__main__":
    raise SystemExit(main())
