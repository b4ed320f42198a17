"""Files for the examples: fetched once, pinned, and never half there."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import assets

WAV, RTTM = b"sound", b"SPEAKER"


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


class FakePip:
    """Stands in for the download: makes a wheel of `files`, and counts how often."""

    def __init__(self, files: dict[str, bytes]) -> None:
        self.files = files
        self.requirements: list[str] = []

    def __call__(self, requirement: str, folder: Path) -> Path:
        self.requirements.append(requirement)
        wheel = folder / "some-1-py3-none-any.whl"
        with zipfile.ZipFile(wheel, "w") as archive:
            for name, content in self.files.items():
                archive.writestr(name, content)
        return wheel


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache folder, and a wheel pinned to contents that the tests know."""
    monkeypatch.setenv("STREAMRNN_ASSETS", str(tmp_path / "cache"))
    pinned = {assets.SPEECH_WAV: digest(WAV), assets.SPEECH_RTTM: digest(RTTM)}
    monkeypatch.setattr(assets, "PYANNOTE", assets.Wheel("pyannote-audio==4.0.7", pinned))
    return tmp_path / "cache"


def use(monkeypatch: pytest.MonkeyPatch, **changed: bytes) -> FakePip:
    files = {"wav": WAV, "rttm": RTTM} | changed
    pip = FakePip({assets.SPEECH_WAV: files["wav"], assets.SPEECH_RTTM: files["rttm"]})
    monkeypatch.setattr(assets, "_download", pip)
    return pip


def files_in(folder: Path) -> list[Path]:
    return [p for p in folder.rglob("*") if p.is_file()]


def test_one_download_brings_both_files_of_a_wheel(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pip = use(monkeypatch)
    assert assets.speech_wav().read_bytes() == WAV
    assert assets.speech_rttm().read_bytes() == RTTM
    assert pip.requirements == ["pyannote-audio==4.0.7"]
    assert sorted(p.name for p in files_in(folder)) == ["sample.rttm", "sample.wav"]
    assert capsys.readouterr().out.count("\n") == 1


def test_a_cache_hit_does_not_call_pip(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    use(monkeypatch)
    assets.speech_wav()
    capsys.readouterr()

    def forbidden(requirement: str, folder: Path) -> Path:
        raise AssertionError("pip was called")

    monkeypatch.setattr(assets, "_download", forbidden)
    assert assets.speech_wav().read_bytes() == WAV
    assert capsys.readouterr().out == ""


def test_a_damaged_file_in_the_cache_is_fetched_again(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pip = use(monkeypatch)
    assets.speech_wav().write_bytes(b"half")
    assert assets.speech_wav().read_bytes() == WAV
    assert len(pip.requirements) == 2


@pytest.mark.parametrize("which", ["wav", "rttm"])
def test_a_wrong_hash_is_an_error_and_leaves_nothing_behind(
    folder: Path, monkeypatch: pytest.MonkeyPatch, which: str
) -> None:
    use(monkeypatch, **{which: b"something else"})
    with pytest.raises(assets.AssetError, match=digest(b"something else")) as caught:
        assets.speech_wav()
    assert f"sample.{which} must have SHA-256" in str(caught.value)
    assert files_in(folder) == []


def test_a_wrong_hash_leaves_the_files_that_were_there(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(monkeypatch)
    rttm = assets.speech_rttm()
    assets.speech_wav().unlink()
    use(monkeypatch, wav=b"something else")
    with pytest.raises(assets.AssetError):
        assets.speech_wav()
    assert files_in(folder) == [rttm]


def test_a_wheel_without_the_file_is_an_error(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(assets, "_download", FakePip({assets.SPEECH_WAV: WAV}))
    with pytest.raises(assets.AssetError, match=r"not as expected.*sample\.rttm"):
        assets.speech_rttm()
    assert files_in(folder) == []


def test_a_wheel_that_is_no_archive_is_an_error(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def page_of_a_portal(requirement: str, folder: Path) -> Path:
        (folder / "some.whl").write_bytes(b"<html>please log in")
        return folder / "some.whl"

    monkeypatch.setattr(assets, "_download", page_of_a_portal)
    with pytest.raises(assets.AssetError, match="not as expected"):
        assets.speech_wav()
    assert files_in(folder) == []


def test_a_cache_folder_that_cannot_be_made_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("STREAMRNN_ASSETS", str(tmp_path / "file" / "cache"))
    use(monkeypatch)
    with pytest.raises(assets.AssetError, match="cannot keep files"):
        assets.speech_wav()


def test_pip_without_a_connection_is_an_error_with_its_last_word(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    with pytest.raises(
        assets.AssetError,
        match=r"download pyannote-audio==4\.0\.7 \(is this machine offline\?\): .*[Nn]o match",
    ):
        assets.speech_wav()
    assert files_in(folder) == []


def test_pip_is_the_interpreters_own_and_fetches_one_pinned_wheel(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commands: list[list[str]] = []

    def run(command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        commands.append(command)
        return subprocess.CompletedProcess(command, 1, stdout="", stderr="")

    monkeypatch.setattr(subprocess, "run", run)
    with pytest.raises(assets.AssetError, match="pip said nothing"):
        assets.silero_onnx()
    assert commands[0][:4] == [sys.executable, "-m", "pip", "download"]
    assert {"--no-deps", "silero-vad==6.2.3"} <= set(commands[0])


@pytest.mark.parametrize(
    ("platform", "variable", "below"),
    [
        ("linux", "XDG_CACHE_HOME", ""),
        ("linux", "HOME", ".cache"),
        ("darwin", "HOME", "Library/Caches"),
        ("win32", "LOCALAPPDATA", ""),
    ],
)
def test_the_default_folder_is_the_users_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, platform: str, variable: str, below: str
) -> None:
    for name in ("STREAMRNN_ASSETS", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(sys, "platform", platform)
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    if variable != "HOME":
        monkeypatch.setenv(variable, str(tmp_path))
    assert assets.cache_folder() == tmp_path / below / "streamrnn" / "assets"


@pytest.mark.parametrize(
    ("fetch", "size_bytes"),
    [
        (assets.silero_onnx, 1289603),
        (assets.speech_wav, 960104),
        (assets.speech_rttm, 596),
        (lambda: assets.dtln_onnx(1), 1458237),
        (lambda: assets.dtln_onnx(2), 2510010),
        (assets.watch_npy, 18118091),
        (assets.co2_csv, 33974),
    ],
)
def test_the_published_files_are_the_pinned_ones(
    fetch: Callable[[], Path], size_bytes: int
) -> None:
    try:
        path = fetch()
    except assets.AssetError as error:
        pytest.skip(str(error))
    assert path.stat().st_size == size_bytes
