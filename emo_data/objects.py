"""Bytes under names, in a local folder or an object store, by the same calls.

A reader never meets half of anything: locally an object is written beside its place, flushed to the disk and renamed;
in a store it is one PUT. A store's hiccups (503, a connection that breaks, an answer cut short) are tried again.
"""

import contextlib
import errno
import hashlib
import io
import os
import random
import re
import shutil
import time
import uuid
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import fsspec
from fsspec.implementations.local import LocalFileSystem

from emo_data.errors import UserError

_TRIES = 8
_FIRST_WAIT, _LONGEST_WAIT = 0.2, 10.0
"""Seconds before the second try and at most: a store that is gone for half a minute stops nothing."""
_RANGE = 2**24
_FINAL = (FileNotFoundError, FileExistsError, PermissionError, IsADirectoryError, NotADirectoryError, ValueError)
"""Answers, not hiccups: asking again changes nothing."""

Answer = TypeVar("Answer")


class Folder:
    """A folder by path or URL. Names are relative to it, with `/` between their parts."""

    def __init__(self, url: str) -> None:
        self.url = str(url)
        self._fs, root = _located(self.url)
        self._root = root.rstrip("/")
        self.local = isinstance(self._fs, LocalFileSystem)

    @property
    def filesystem(self) -> Any:
        """The fsspec file system that it lies in."""
        return self._fs

    def read(self, name: str) -> bytes:
        """FileNotFoundError where there is none."""
        return self._patiently(lambda: self._fs.cat_file(self._path(name)))

    def read_all(self, names: Sequence[str]) -> list[bytes]:
        """Many small objects; a store gives them side by side."""
        if not names:
            return []
        if self.local:
            return [self.read(name) for name in names]
        paths = [self._path(name) for name in names]
        found = self._patiently(lambda: self._fs.cat(paths))
        return [found[path] for path in paths] if isinstance(found, dict) else [found]

    def write(self, name: str, data: bytes) -> None:
        """Whole or not at all; replaces what has the name."""
        if not self.local:
            self._patiently(lambda: self._fs.pipe_file(self._path(name), data))
            return
        with self._beside(name, data) as (unfinished, target):
            os.replace(unfinished, target)

    def put(self, name: str, file: Path) -> None:
        """As `write`, from a local file of any size, which is moved."""
        if not self.local:
            self._patiently(lambda: self._fs.put_file(str(file), self._path(name)))
            file.unlink()
            return
        target = self._path(name)
        os.makedirs(os.path.dirname(target), exist_ok=True)
        unfinished = os.path.join(os.path.dirname(target), f".{os.path.basename(target)}.{uuid.uuid4().hex}")
        shutil.move(file, unfinished)  # which copies where the file is on another disk
        with open(unfinished, "rb") as stream:
            os.fsync(stream.fileno())
        os.replace(unfinished, target)
        _flush_names(os.path.dirname(target))

    def create(self, name: str, data: bytes) -> bool:
        """As `write`, but only where nothing has the name yet; of several who try, one is told True."""
        try:
            if self.local:
                with self._beside(name, data) as (unfinished, target):
                    _link(unfinished, target, data)
            else:
                self._patiently(lambda: self._fs.pipe_file(self._path(name), data, mode="create"))
        except FileExistsError:
            # Where the answer to the first try was lost, the second one meets our own object.
            return not self.local and self.read(name) == data
        return True

    def open(self, name: str) -> Any:
        """A seekable binary file to read from."""
        if self.local:
            return open(self._path(name), "rb")
        return io.BufferedReader(_Ranges(self, name), buffer_size=2**20)

    def read_range(self, name: str, start: int, stop: int) -> bytes:
        """Bytes start to stop, all of them."""

        def ask() -> bytes:
            data = bytes(self._fs.cat_file(self._path(name), start=start, end=stop))
            if len(data) != stop - start:
                raise ConnectionError(f"{self._path(name)}: {len(data)} bytes came instead of {stop - start}")
            return data

        return self._patiently(ask)

    def copy(self, name: str, target: Path) -> str:
        """Copy an object to a local file, in constant memory. Returns its sha256."""
        size, digest = int(self.info(name)["size"]), hashlib.sha256()
        with target.open("wb") as stream:
            for start in range(0, size, _RANGE):
                data = self.read_range(name, start, min(start + _RANGE, size))
                digest.update(data)
                stream.write(data)
        return digest.hexdigest()

    def info(self, name: str) -> dict[str, Any]:
        """What the disk or store tells of an object, its size at least. FileNotFoundError where there is none."""
        return dict(self._patiently(lambda: self._fs.info(self._path(name))))

    def beneath(self) -> list[str]:
        """URLs of all objects at any depth; where the folder's own name is a glob, of those that match. Sorted."""
        look = self._fs.glob if re.search(r"[*?\[]", self._root) else self._fs.find
        return sorted(self._fs.unstrip_protocol(path) for path in self._patiently(lambda: look(self._root)))

    def exists(self, name: str = "") -> bool:
        """Whether there is such an object or folder."""
        return bool(self._patiently(lambda: self._fs.exists(self._path(name))))

    def names(self, folder: str) -> list[str]:
        """What lies in a folder, sorted. Listed, not globbed: a path may hold a `*` or a `[`. Unfinished files do not
        count."""
        try:
            paths = self._patiently(lambda: self._fs.ls(self._path(folder), detail=False))
        except FileNotFoundError:
            return []
        found = {path.rstrip("/").rsplit("/", 1)[-1] for path in paths}
        return sorted(f"{folder}/{name}" if folder else name for name in found if not name.startswith("."))

    def delete(self, names: Sequence[str]) -> None:
        """What is gone already is no error."""
        if self.local:
            for name in names:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(self._path(name))
            return
        for first in range(0, len(names), 1000):
            paths = [self._path(name) for name in names[first : first + 1000]]
            with contextlib.suppress(FileNotFoundError):
                self._patiently(partial(self._fs.rm, paths))

    def remove(self, folder: str) -> None:
        """A folder with all beneath it."""
        if not self.local:
            start = len(self._root) + 1  # hidden ones, too
            self.delete([path[start:] for path in self._patiently(lambda: self._fs.find(self._path(folder)))])
        elif os.path.exists(self._path(folder)):
            shutil.rmtree(self._path(folder))

    def below(self, name: str) -> "Folder":
        """A folder in it."""
        return Folder(f"{self.url.rstrip('/')}/{name}")

    def all_names(self) -> list[str]:
        """What lies at any depth, sorted; of the folder itself, no glob. Unfinished files do not count."""
        start = len(self._root) + 1
        paths = self._patiently(lambda: self._fs.find(self._root))
        names = sorted(path[start:] for path in paths)
        return [name for name in names if not any(part.startswith(".") for part in name.split("/"))]

    def sweep_unfinished(self, folder: str) -> None:
        """Remove what writers that were killed left beside an object's place. Only while nobody else writes."""
        if self.local and os.path.isdir(self._path(folder)):
            for name in os.listdir(self._path(folder)):
                path = os.path.join(self._path(folder), name)
                if name.startswith("."):
                    shutil.rmtree(path) if os.path.isdir(path) else os.unlink(path)

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}" if name else self._root

    def _patiently(self, ask: Callable[[], Answer]) -> Answer:
        for attempt in range(_TRIES):
            try:
                return ask()
            except Exception as error:
                if self.local or isinstance(error, _FINAL):
                    raise
                if attempt == _TRIES - 1:  # whatever kind of error its client has for it
                    raise ConnectionError(f"{self.url}: the store does not answer: {error}") from error
                wait = min(_FIRST_WAIT * 2**attempt, _LONGEST_WAIT)
                time.sleep(wait * random.uniform(0.5, 1))  # many workers must not come back at the same moment
        raise AssertionError("the last try either answers or raises")

    @contextlib.contextmanager
    def _beside(self, name: str, data: bytes) -> Any:
        """A file with the data beside its place, safe on the disk; the block gives it its name."""
        target = self._path(name)
        folder, last = os.path.split(target)
        os.makedirs(folder, exist_ok=True)
        unfinished = os.path.join(folder, f".{last}.{uuid.uuid4().hex}")  # writers may be threads, or machines
        try:
            with open(unfinished, "wb") as stream:
                stream.write(data)
                stream.flush()
                os.fsync(stream.fileno())
            yield unfinished, target
        finally:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(unfinished)
        _flush_names(folder)


def _link(source: str, target: str, data: bytes) -> None:
    """FileExistsError where the name is taken. Some disks (FAT, network mounts) know no links."""
    try:
        os.link(source, target)
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS):
            raise
        with open(target, "xb") as file:
            file.write(data)


def _flush_names(folder: str) -> None:
    """A new name must survive a power cut, too."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def found(url: str) -> list[str]:
    """URLs of what there is: the object of that name, all beneath a prefix, or all that match a glob; sorted."""
    return Folder(url).beneath()


def fetch(url: str, target: Path) -> str:
    """Copy an object to a local file, in constant memory. Returns its sha256."""
    base, _, name = url.rpartition("/")
    return Folder(base).copy(name, target)


def stamp(url: str) -> str:
    """What changes when a file or an object does, without reading it. FileNotFoundError where there is none."""
    if "://" not in url:
        status = os.stat(url)
        return f"{status.st_size} {status.st_mtime_ns}"
    base, _, name = url.rpartition("/")
    told = Folder(base).info(name)
    return " ".join(str(told[key]) for key in ("size", "ETag", "LastModified", "mtime", "created") if key in told)


class _Ranges(io.RawIOBase):
    """An object of a store, read range by range, each of them patiently."""

    def __init__(self, folder: Folder, name: str) -> None:
        self._folder, self._name = folder, name
        self._size, self._at = int(folder.info(name)["size"]), 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._at = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._size}[whence]
        return self._at

    def tell(self) -> int:
        return self._at

    def readinto(self, buffer: Any) -> int:
        stop = min(self._at + len(buffer), self._size)
        if stop <= self._at:
            return 0
        data = self._folder.read_range(self._name, self._at, stop)
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)


def _located(url: str) -> tuple[Any, str]:
    try:
        # What others write must be seen: no listing is remembered.
        options = {} if "://" not in url else {"use_listings_cache": False}
        return fsspec.core.url_to_fs(url, **options)
    except (ValueError, ImportError) as error:
        raise UserError(f"{url}: {error}") from error
