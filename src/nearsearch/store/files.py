"""Files of an index as a manifest records them, and the one way to map them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from nearsearch.errors import CorruptFileError
from nearsearch.store import fs

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray


_NAME: Final = re.compile(r"[a-z]+(/[0-9a-zA-Z_-][0-9a-zA-Z._-]*){1,2}")


@dataclass(frozen=True, slots=True)
class File:
    """A file of the index: name below the index directory, length in bytes, SHA-256 in hex.

    `edges` is the SHA-256 of the first and last `fs.EDGE` bytes, which for a short file are all.
    """

    name: str
    size: int
    sha256: str
    edges: str

    @property
    def folder(self) -> str:
        """The directory of the file, below the index directory."""
        return self.name.rpartition("/")[0]

    def encode(self) -> dict[str, Any]:
        """Return the record as a JSON object; `edges` of a short file is its SHA-256."""
        value = {"name": self.name, "size": self.size, "sha256": self.sha256}
        return value if self.edges == self.sha256 else {**value, "edges": self.edges}


def decode_file(value: Mapping[str, Any]) -> File:
    """Return the record of a JSON object; raises `ValueError` for a name that leads elsewhere."""
    if not _NAME.fullmatch(value["name"]):  # never follow a manifest out of its directory
        raise ValueError(f"file name {value['name']!r}")
    sha256 = str(value["sha256"])
    edges = str(value.get("edges", sha256))
    return File(str(value["name"]), int(value["size"]), sha256, edges)


def map_checked(root: Path, file: File) -> NDArray[np.uint8]:
    """Map a file after checking its length and its edges; the rest is checked by `problem_of`.

    Raises
    ------
    CorruptFileError
        It is missing, of another length, or altered where it begins or ends.
    """
    path = root / file.name
    found = fs.size_of(path)
    if found != file.size:
        actual = "no file" if found is None else found
        raise CorruptFileError(path, "length in bytes", file.size, actual)
    try:
        data = fs.map_file(path, file.size)
    except FileNotFoundError:  # removed since: the caller sees whether by a writer
        raise CorruptFileError(path, "length in bytes", file.size, "no file") from None
    edges = fs.edges_of(data)
    if edges != file.edges:
        raise CorruptFileError(path, "SHA-256 of its edges", file.edges, edges)
    return data


def problem_of(root: Path, file: File, on_read: Callable[[int], None] | None = None) -> str | None:
    """Read a file to its end and say what is wrong with it, if anything is.

    Raises
    ------
    OSError
        It is there, and cannot be read.
    """
    try:
        size, sha256 = fs.checksum(root / file.name, on_read)
    except FileNotFoundError:
        return "there is no such file"
    if size != file.size:
        return f"{size} bytes instead of {file.size}"
    if sha256 != file.sha256:
        return "its SHA-256 is not the one it was written with"
    return None
