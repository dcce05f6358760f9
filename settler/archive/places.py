"""Reads and writes whole files of archives and exports, in a folder or in an S3 bucket."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import IO, Any, Final, Protocol

S3: Final = "s3://"
_NEW: Final = ".new"
_ENDPOINTS: Final = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")
_REGIONS: Final = ("AWS_REGION", "AWS_DEFAULT_REGION")
_TIMEOUT_S: Final = 60.0
_PIECE_BYTES: Final = 1024**2


class ArchiveError(Exception):
    """An archive that cannot be read or written, or is not what was written; names the file."""


class ArchiveUnread(ArchiveError):
    """What is there could not be read, now or by this release: nothing is known about it, neither
    that it is right nor that it is wrong.
    """


class NothingThere(ArchiveUnread):
    """The place has no file at all: it may be another one than is meant, or not be mounted."""


class Place(Protocol):
    """Where archives or exports lie; nothing there is ever removed, and of archives nothing is
    written over. Names are relative, such as `2025-01/01-8d1c5a02.json`. Every method raises
    ArchiveError, which names the file so, and no credentials.
    """

    url: str

    def read(self, name: str) -> bytes:
        """The whole file. Raises ArchiveUnread where it cannot be said whether it is there: the
        place does not answer, refuses us, or has nothing at all.
        """

    def write(self, name: str, content: bytes) -> None:
        """Write the whole file or none of it; durable on return."""

    def write_file(self, name: str, source: Path) -> None:
        """The same with the content of a file of this machine, of which a piece is in memory."""

    def digest(self, name: str) -> tuple[int, str]:
        """Bytes of a file and their SHA-256 in hexadecimal; a piece of it is in memory. Raises as
        `read`.
        """

    def names(self, folder: str) -> list[str]:
        """Files of this folder, which need not exist."""


def open_place(url: str) -> Place:
    """The place of a checked URL; nothing is asked of it yet."""
    return _Bucket(url) if url.startswith(S3) else _Folder(url)


class _Folder:
    def __init__(self, url: str) -> None:
        self.url = url
        self._root = Path(url)

    def read(self, name: str) -> bytes:
        with self._opened(name) as file:
            return file.read()

    def digest(self, name: str) -> tuple[int, str]:
        with self._opened(name) as file:
            return _digest(file)

    @contextlib.contextmanager
    def _opened(self, name: str) -> Iterator[IO[bytes]]:
        try:
            with _naming(name), (self._root / name).open("rb") as file:
                yield file
        except ArchiveUnread:
            raise
        except ArchiveError as error:
            with _naming(name):
                if self._root.is_dir() and any(self._root.iterdir()):
                    raise
            raise _nothing_there(name, self.url) from error

    def write(self, name: str, content: bytes) -> None:
        with self._replacing(name) as file:
            file.write(content)

    def write_file(self, name: str, source: Path) -> None:
        with source.open("rb") as content, self._replacing(name) as file:
            shutil.copyfileobj(content, file, _PIECE_BYTES)

    @contextlib.contextmanager
    def _replacing(self, name: str) -> Iterator[IO[bytes]]:
        """A new file that takes its name when it is whole. Where two write the same name, each has
        its own; what a killed one has left goes.
        """
        path = self._root / name
        with _naming(name):
            path.parent.mkdir(parents=True, exist_ok=True)
            for left in path.parent.glob(f"{path.name}.*{_NEW}"):
                left.unlink(missing_ok=True)
            new = path.with_name(f"{path.name}.{secrets.token_hex(4)}{_NEW}")
            with new.open("xb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            new.rename(path)
            for folder in (path.parent, *path.parent.parents):
                _sync_folder(folder)
                if folder == self._root:
                    break

    def names(self, folder: str) -> list[str]:
        with _naming(folder):
            if not (self._root / folder).is_dir():
                return []
            return sorted(f"{folder}/{one.name}" for one in (self._root / folder).iterdir())


def _sync_folder(folder: Path) -> None:
    """A name is as durable as its folder."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class _Bucket:
    def __init__(self, url: str) -> None:
        from pyarrow.fs import FileSelector, S3FileSystem

        self._selector = FileSelector
        self.url = url
        self._root = url.rstrip("/").removeprefix(S3)
        self._files = S3FileSystem(
            connect_timeout=_TIMEOUT_S, request_timeout=_TIMEOUT_S, **_from_environment()
        )

    def read(self, name: str) -> bytes:
        with self._opened(name) as file:
            content: bytes = file.read()
            return content

    def digest(self, name: str) -> tuple[int, str]:
        with self._opened(name) as file:
            return _digest(file)

    @contextlib.contextmanager
    def _opened(self, name: str) -> Iterator[Any]:
        try:
            with (
                _naming(name),
                self._files.open_input_file(f"{self._root}/{name}") as file,
            ):
                yield file
        except ArchiveUnread:
            raise
        except ArchiveError as error:
            # S3 says the same of a file and of a bucket that are not there.
            with _naming(name):
                if self._files.get_file_info(self._selector(self._root, allow_not_found=True)):
                    raise
            raise _nothing_there(name, self.url) from error

    def write(self, name: str, content: bytes) -> None:
        with (
            _naming(name),
            self._files.open_output_stream(f"{self._root}/{name}") as file,
        ):
            file.write(content)

    def write_file(self, name: str, source: Path) -> None:
        with (
            source.open("rb") as content,
            _naming(name),
            self._files.open_output_stream(f"{self._root}/{name}") as file,
        ):
            while piece := content.read(_PIECE_BYTES):
                file.write(piece)

    def names(self, folder: str) -> list[str]:
        with _naming(folder):
            wanted = self._selector(f"{self._root}/{folder}", allow_not_found=True)
            found = self._files.get_file_info(wanted)
            return sorted(f"{folder}/{one.base_name}" for one in found if one.is_file)


def _digest(file: Any) -> tuple[int, str]:
    length, found = 0, sha256()
    while piece := file.read(_PIECE_BYTES):
        length += len(piece)
        found.update(piece)
    return length, found.hexdigest()


def _from_environment() -> dict[str, Any]:
    """The endpoint and the region, by the variables that AWS's own tools read. Keys are found by
    the client itself, in the environment, its files, or the machine's role.
    """
    found: dict[str, Any] = {}
    endpoint = next((url for name in _ENDPOINTS if (url := os.environ.get(name))), None)
    region = next((one for name in _REGIONS if (one := os.environ.get(name))), None)
    if endpoint is not None:
        scheme, _, host = endpoint.rpartition("://")
        found |= {"endpoint_override": host.rstrip("/"), "scheme": scheme or "https"}
        # Checksums that AWS's client adds of itself are refused by other S3; we have our own.
        os.environ.setdefault("AWS_REQUEST_CHECKSUM_CALCULATION", "when_required")
    if region is not None or endpoint is not None:
        found["region"] = region or "us-east-1"
    return found


def _nothing_there(name: str, url: str) -> NothingThere:
    return NothingThere(
        f"{name} cannot be read: there is nothing at all at {url}; is it the right one, and is it"
        " mounted?"
    )


@contextlib.contextmanager
def _naming(file: str) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError as error:
        raise ArchiveError(f"{file} is missing") from error
    except OSError as error:
        # What S3 answers is long; its first line says it.
        said = (error.strerror or str(error) or type(error).__name__).splitlines()[0]
        raise ArchiveUnread(f"{file} cannot be used: {said}") from error
