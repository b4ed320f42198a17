"""Write ``frontend.npz``: what librosa, torchaudio, Kaldi's features and scipy compute.

Run it by hand, with librosa, kaldi-native-fbank, scipy, torch and torchaudio installed::

    python tests/golden/make_frontend.py

``signal`` is seeded, a quarter of a second at 16 kHz in 16 bits: a rising tone, noise, a click, and
silence. All else is float32 (coefficients float64), computed in float64 where the library
can. Frames are the first axis.
"""

from __future__ import annotations

from pathlib import Path

import kaldi_native_fbank as knf
import librosa
import numpy as np
import scipy.signal
import torch
import torchaudio

RATE, HOP, N_FFT = 16000, 160, 512


def signal() -> np.ndarray:
    """Return the signal, int16."""
    rng = np.random.default_rng(20240229)
    t = np.arange(RATE // 4) / RATE
    x = 0.4 * np.sin(2 * np.pi * (150 + 9000 * t) * t) + 0.02 * rng.standard_normal(t.size)
    x[1000] = 0.9
    x[-600:] = 0
    return np.round(x * 32767).astype(np.int16)


def with_librosa(x: np.ndarray) -> dict[str, np.ndarray]:
    """Return spectra, mel energies, cepstra and their normalised energies."""
    options = {"n_fft": N_FFT, "hop_length": HOP}
    mel = librosa.feature.melspectrogram(y=x, sr=RATE, n_mels=40, center=False, **options)
    db = librosa.power_to_db(mel, top_db=None)
    found = {
        "stft": librosa.stft(x, center=False, **options),
        "stft_center": librosa.stft(
            x, n_fft=256, hop_length=HOP, win_length=200, pad_mode="constant"
        ),
        "stft_hamming": librosa.stft(x, n_fft=400, hop_length=200, window="hamming", center=False),
        "mel_librosa": mel,
        "log_mel_librosa": db,
        "mfcc_librosa": librosa.feature.mfcc(S=db, n_mfcc=13),
        "mfcc_librosa_liftered": librosa.feature.mfcc(S=db, n_mfcc=13, lifter=22),
        "pcen": librosa.pcen(mel * 2**20, sr=RATE, hop_length=HOP),
    }
    spectrum = librosa.stft(np.pad(x, (384, 0)), n_fft=512, hop_length=128, center=False)
    spectrum *= np.linspace(0, 1, 257)[:, None]
    found["istft"] = librosa.istft(spectrum, hop_length=128, center=False)
    return {name: a.T for name, a in found.items()}


def with_torchaudio(x: np.ndarray) -> dict[str, np.ndarray]:
    """Return mel energies, cepstra, differences and pre-emphasis."""
    wave, f = torch.from_numpy(x), torchaudio.functional
    mel = {"n_fft": N_FFT, "hop_length": HOP, "n_mels": 40, "center": False}
    energies = torchaudio.transforms.MelSpectrogram(RATE, **mel).double()(wave)
    cepstra = torchaudio.transforms.MFCC(RATE, 13, melkwargs=mel).double()
    cepstra.amplitude_to_DB.top_db = None
    made = {
        "log_mel_torchaudio": torchaudio.transforms.AmplitudeToDB("power")(energies),
        "mfcc_torchaudio": cepstra(wave),
        "deltas": f.compute_deltas(energies),
        "deltas_of_9": f.compute_deltas(energies, 9),
        "pre_emphasis": f.preemphasis(wave),
    }
    return {name: a.numpy().T for name, a in made.items()}


def with_kaldi(x: np.ndarray) -> dict[str, np.ndarray]:
    """Return filterbank energies and cepstra of samples between -32768 and 32767."""
    fbank, mfcc = knf.FbankOptions(), knf.MfccOptions()
    fbank.mel_opts.num_bins = 80
    computers = {"log_mel_kaldi": (knf.OnlineFbank, fbank), "mfcc_kaldi": (knf.OnlineMfcc, mfcc)}
    found = {}
    for name, (kind, options) in computers.items():
        options.frame_opts.dither = 0
        for energy in (False, True) if kind is knf.OnlineMfcc else (False,):
            options.use_energy = energy
            computer = kind(options)
            computer.accept_waveform(RATE, (x * 32768).tolist())
            frames = [computer.get_frame(i) for i in range(computer.num_frames_ready)]
            found[name + "_energy" * energy] = np.array(frames)
    return found


def windows() -> dict[str, np.ndarray]:
    """Return every window, periodic and symmetric, of even and odd length."""
    found = {}
    for n in (32, 33):
        for kind in ("hann", "hamming", "blackman", ("kaiser", 12.0)):
            name = kind if isinstance(kind, str) else kind[0]
            for periodic in (True, False):
                curve = scipy.signal.get_window(kind, n, fftbins=periodic)
                found[f"window/{name}/{n}/{int(periodic)}"] = curve
        options = knf.FrameExtractionOptions()
        options.samp_freq, options.frame_length_ms, options.window_type = 1000, n, "povey"
        curve = np.array(knf.FeatureWindowFunction(options).window)
        found[f"window/povey/{n}/0"] = curve
    return found


def filters(x: np.ndarray) -> dict[str, np.ndarray]:
    """Return a band-pass of order 8 (coefficients and result), and a high-pass of order 3."""
    band = scipy.signal.butter(4, (300, 3400), "bandpass", fs=RATE, output="sos")
    high = scipy.signal.butter(3, 60, "highpass", fs=RATE, output="sos")
    made = {"band": band, "high": high}
    sos = {f"sos/{name}": coefficients for name, coefficients in made.items()}
    return sos | {name: scipy.signal.sosfilt(c, x)[:1600] for name, c in made.items()}


def main() -> None:
    """Write the file."""
    samples = signal()
    x = samples / 32768
    made = with_librosa(x) | with_torchaudio(x) | with_kaldi(x) | windows() | filters(x)
    kinds = {name: np.complex64 if np.iscomplexobj(a) else np.float32 for name, a in made.items()}
    kinds |= {name: np.float64 for name in made if name.startswith("sos/")}
    arrays = {name: a.astype(kinds[name]) for name, a in made.items()}
    path = Path(__file__).parent / "frontend.npz"
    np.savez_compressed(path, signal=samples, **arrays)
    print(f"{path}: {path.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
