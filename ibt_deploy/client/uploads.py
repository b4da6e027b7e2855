"""What of a recording or a stay goes to the server, and how it is packed."""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from ibt_deploy.errors import IbtError, UnsupportedFormat
from ibt_deploy.files import MemoryFolder
from ibt_deploy.readers import read, task_of
from ibt_deploy.types import Task


@dataclass(frozen=True)
class Upload:
    """Files that are scored together, by name, and the task they are probably for."""

    task: Task
    files: Mapping[str, bytes]


def upload_of(path: Path) -> Upload:
    """What a server needs to score the file at ``path``.

    A recording may consist of several files. Which, its reader knows: what it opens when it reads the
    recording here is what it will need there. Whether the content is any good is for the server to say.

    Raises
    ------
    InputError
        There is no such file, or it is none that can be read.
    """
    task: Task = "arrhythmia"
    try:
        task = task_of(path)
    except UnsupportedFormat as error:
        if error.code != UnsupportedFormat.default_code:
            raise  # a folder or a pipe; but the server may know formats that we do not
    folder = _Folder(path)
    content = folder[path.name]
    if task == "arrhythmia":
        with suppress(IbtError):
            read(MemoryFolder(folder) / path.name)
    return Upload(task, {path.name: content} | folder.opened)


class _Folder(Mapping[str, bytes]):
    """The files beside ``path`` as a mapping, and those of them that were opened.

    A link out of the folder is no file of it, unless ``path`` is itself a link and they share a target: a
    header from elsewhere shall not make us send away whatever a link names.
    """

    def __init__(self, path: Path) -> None:
        self.opened: dict[str, bytes] = {}
        self._path = path
        self._homes = (path.parent.resolve(), path.resolve().parent)

    def __getitem__(self, name: str) -> bytes:
        if name not in self:
            raise KeyError(name)
        if name not in self.opened:
            self.opened[name] = (self._path.parent / name).read_bytes()
        return self.opened[name]

    def __contains__(self, name: object) -> bool:
        plain = PurePosixPath(str(name))
        if plain.is_absolute() or ".." in plain.parts:
            return False
        file = self._path.parent / plain
        return file.is_file() and any(file.resolve().is_relative_to(home) for home in self._homes)

    def __iter__(self) -> Iterator[str]:
        return (entry.name for entry in self._path.parent.iterdir() if entry.name in self)

    def __len__(self) -> int:
        return sum(1 for _ in self)


def multipart(files: Mapping[str, bytes]) -> tuple[bytes, str]:
    """Body and content type of a form that uploads ``files`` (RFC 7578)."""
    boundary = secrets.token_hex(16).encode()
    parts: list[bytes] = []
    for name, content in files.items():
        parts += [
            b'--%b\r\nContent-Disposition: form-data; name="files"; filename="%b"\r\n'
            % (boundary, _quoted(name)),
            b"Content-Type: application/octet-stream\r\n\r\n",
            content,
            b"\r\n",
        ]
    body = b"".join([*parts, b"--%b--\r\n" % boundary])
    return body, f"multipart/form-data; boundary={boundary.decode()}"


def _quoted(name: str) -> bytes:
    """A file name in UTF-8, with what would end it escaped as browsers do."""
    escaped = name.replace("\r", "%0D").replace("\n", "%0A").replace('"', "%22")
    return escaped.encode("utf-8", errors="replace")
