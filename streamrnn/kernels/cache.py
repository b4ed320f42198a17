"""Where compiled kernels are kept between processes, and when they are out of date.

numba's own cache watches only the file that defines a function, so an edit in a helper module
would leave a stale kernel behind. Here one stamp covers everything that a kernel's code depends on:
the sources of all kernel modules, the versions of numba and llvmlite, the CPU and its features.
Each stamp has a folder of its own; nothing in it is ever wrong, so nothing needs to be invalidated.
A stamp for each kernel would save compiling after an update, but then an update would find a folder
that is read-only and lacks kernels, files would have to be thrown away one by one, and what a
kernel depends on would have to be found from its imports: too much that can go wrong.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import hashlib
import logging
import os
import pickle
import shutil
import sys
import tempfile
import zlib
from pathlib import Path
from typing import Any, NamedTuple

import llvmlite
import numba
from numba.core.caching import (
    CompileResultCacheImpl,
    FunctionCache,
    IndexDataCacheFile,
    _CacheLocator,
)

from .simd import host_description

__all__ = ["KeptFile", "KernelCache", "cache_folder", "source_stamp", "writable"]

PACKAGE = Path(__file__).resolve().parent.parent


def _sources() -> list[Path]:
    return sorted([*PACKAGE.glob("kernels/*.py"), *PACKAGE.glob("ops/*.py")])


@functools.cache
def source_stamp() -> str:
    """Return a hash of all that the compiled code depends on (16 hexadecimal digits)."""
    digest = hashlib.sha256()
    for path in _sources():
        digest.update(path.name.encode())
        digest.update(path.read_bytes())
    for part in (numba.__version__, llvmlite.__version__, sys.version, host_description()):
        digest.update(part.encode())
    return digest.hexdigest()[:16]


def writable(folder: Path) -> bool:
    """Whether files can be made in a folder; it is made where it can be."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError:
        return False
    return True


def _user_cache() -> Path:
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA", Path.home() / "AppData" / "Local"))
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")


KEPT_FOLDERS = 8


def _prune(root: Path) -> None:
    """Remove the folders of older versions and other CPUs, but for the most recent ones."""
    with contextlib.suppress(OSError):
        folders = sorted(root.glob("kernels-*"), key=lambda f: f.stat().st_mtime, reverse=True)
        for old in folders[KEPT_FOLDERS:]:
            shutil.rmtree(old, ignore_errors=True)


@functools.cache
def cache_folder() -> Path:
    """Return the folder of compiled kernels for this source, numba and CPU.

    ``STREAMRNN_CACHE_DIR`` if set, else beside the package, else, where the package is read-only,
    the user's cache folder, else (nothing is writable) a temporary folder of this process, of which
    a warning tells. A folder that already holds this stamp is used even if it is read-only.
    """
    chosen = os.environ.get("STREAMRNN_CACHE_DIR")
    roots = [Path(chosen)] if chosen else [PACKAGE / "__pycache__", _user_cache() / "streamrnn"]
    for root in roots:
        folder = root / f"kernels-{source_stamp()}"
        if folder.is_dir():
            return folder
        if writable(folder):
            _prune(root)
            return folder
    logging.getLogger("streamrnn").warning(
        "compiled kernels cannot be kept: none of %s can be written, so every process compiles "
        "anew; set STREAMRNN_CACHE_DIR, or run `streamrnn warmup` where one can",
        ", ".join(map(str, roots)),
    )
    folder = Path(tempfile.mkdtemp(prefix="streamrnn-")) / f"kernels-{source_stamp()}"
    folder.mkdir()
    atexit.register(shutil.rmtree, folder.parent, ignore_errors=True)
    return folder


class _Locator(_CacheLocator):  # type: ignore[misc]
    def __init__(self, file: Path) -> None:
        self.file = file

    def get_cache_path(self) -> str:
        return str(cache_folder())

    def get_source_stamp(self) -> str:
        """Stamp of the library, and of the file of a kernel that is not the library's."""
        if self.file.is_relative_to(PACKAGE):
            return source_stamp()
        return source_stamp() + hashlib.sha256(self.file.read_bytes()).hexdigest()

    def get_disambiguator(self) -> str:
        return "k"

    @classmethod
    def from_function(cls, py_func: Any, py_file: str) -> _Locator:
        return cls(Path(py_file).resolve())


class _Implementation(CompileResultCacheImpl):  # type: ignore[misc]
    _locator_classes = [_Locator]  # noqa: RUF012 (numba's own attribute)


CHECKSUM = 4
"""Bytes before the code in a file."""


class _CheckedFiles(IndexDataCacheFile):  # type: ignore[misc]
    """Files of machine code with a checksum.

    Where power fails while a file is written, pages of zeros may be left in it. Such code still
    loads, and crashes.
    """

    def _load_data(self, name: str) -> Any:
        data = Path(self._data_path(name)).read_bytes()
        if not _is_whole(data):
            raise ValueError(f"{name} is damaged")
        return pickle.loads(data[CHECKSUM:])

    def _save_data(self, name: str, data: Any) -> None:
        code = self._dump(data)
        with self._open_for_write(self._data_path(name)) as file:
            file.write(_checksum(code) + code)


def _checksum(code: bytes) -> bytes:
    return zlib.crc32(code).to_bytes(CHECKSUM, "little")


def _is_whole(data: bytes) -> bool:
    return data[:CHECKSUM] == _checksum(data[CHECKSUM:])


class KeptFile(NamedTuple):
    """A file of the cache, and whether it is as it was written."""

    path: Path
    is_whole: bool


class KernelCache(FunctionCache):  # type: ignore[misc]
    """numba's function cache, in :func:`cache_folder` and keyed by :func:`source_stamp`."""

    _impl_class = _Implementation

    def __init__(self, py_func: Any) -> None:
        super().__init__(py_func)
        self._cache_file = _CheckedFiles(
            self._cache_path, self._impl.filename_base, self._impl.locator.get_source_stamp()
        )

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        try:
            if self._of_the_library:
                # numba's own form first imports all that it may ever compile (scipy and cffi
                # included; a quarter of a second). Our machine code calls none of it.
                return self._load_overload(sig, target_context)
            return super().load_overload(sig, target_context)
        except Exception:  # a damaged file, whatever the damage: compile again
            return None

    @property
    def _of_the_library(self) -> bool:
        return bool(self._impl.locator.file.is_relative_to(PACKAGE))

    def find(self, sig: Any, target_context: Any) -> KeptFile | None:
        """Return the file with the compiled form for this signature; it is not loaded.

        It is the index, where that is damaged; and nothing, where there is no such form.
        """
        files = self._cache_file
        try:
            name = files._load_index().get(self._index_key(sig, target_context.codegen()))
        except Exception:  # whatever the damage
            return KeptFile(Path(files._index_path), False)
        if name is None:
            return None
        path = Path(files._data_path(name))
        with contextlib.suppress(OSError):
            return KeptFile(path, _is_whole(path.read_bytes()))
        return None

    def save_overload(self, sig: Any, data: Any) -> None:
        with contextlib.suppress(OSError):  # full disk, read-only folder: compile again next time
            try:
                super().save_overload(sig, data)
            except OSError:
                raise
            except Exception:  # a damaged index: begin a new one
                self.flush()
                super().save_overload(sig, data)
