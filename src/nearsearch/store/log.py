"""The log: who committed what, one entry a commit.

The newest entries stand in the manifest; older ones lie in files of `ENTRIES_A_FILE` lines of JSON,
so that neither a manifest nor the work of a commit grows with the number of commits.
"""

from __future__ import annotations

import getpass
import json
import os
import secrets
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any, Final

from nearsearch.errors import CorruptFileError
from nearsearch.store import fs
from nearsearch.store.files import File, map_checked

if TYPE_CHECKING:
    from collections.abc import Mapping, Set
    from pathlib import Path

AUTHOR: Final = "NEARSEARCH_AUTHOR"  # environment variable that says who commits
LOG: Final = "log"
ENTRIES_A_FILE: Final = 128
MOST_CONTRIBUTIONS: Final = 16  # named in one entry


@dataclass(frozen=True, slots=True)
class Commit:
    """One commit.

    Attributes
    ----------
    generation
        The generation it made.
    time
        ISO 8601, UTC.
    author
        Who made it, as they said.
    actions
        What was done, for instance ``("add", "remove")``.
    added, replaced, removed
        Members.
    items, members
        Living ones afterwards.
    contributions
        The contributions it changed, at most 16 of them.
    remark
        More about an action, for instance the generation that was gone back to.
    """

    generation: int
    time: str
    author: str
    actions: tuple[str, ...]
    added: int = 0
    replaced: int = 0
    removed: int = 0
    items: int = 0
    members: int = 0
    contributions: tuple[str, ...] = ()
    remark: str = ""

    def to_json(self) -> dict[str, Any]:
        """Return the fields as a JSON object."""
        return {field.name: getattr(self, field.name) for field in fields(self)}


@dataclass(frozen=True, slots=True)
class Log:
    """All commits: files of older ones, and the newest."""

    files: tuple[File, ...] = ()
    newest: tuple[Commit, ...] = ()

    def encode(self) -> dict[str, Any]:
        """Return the log as a manifest holds it."""
        return {
            "files": [file.encode() for file in self.files],
            "newest": [commit.to_json() for commit in self.newest],
        }


def author_or_default(author: str | None) -> str:
    """Return who commits: as given, as the environment says, or the name of the user."""
    if author is not None:
        return author
    try:
        return os.environ.get(AUTHOR) or getpass.getuser()
    except (OSError, KeyError):  # a user without a name
        return f"user {os.getuid()}"


def decode_commit(value: Mapping[str, Any]) -> Commit:
    """Return the entry of a JSON object; unknown fields are ignored."""
    return Commit(
        generation=int(value["generation"]),
        time=str(value["time"]),
        author=str(value["author"]),
        actions=tuple(str(action) for action in value["actions"]),
        added=int(value["added"]),
        replaced=int(value["replaced"]),
        removed=int(value["removed"]),
        items=int(value["items"]),
        members=int(value["members"]),
        contributions=tuple(str(name) for name in value["contributions"]),
        remark=str(value["remark"]),
    )


def extended(root: Path, log: Log, commit: Commit) -> Log:
    """Return the log with one more commit; writes a file when there are enough entries for one."""
    if len(log.newest) < ENTRIES_A_FILE:
        return replace(log, newest=(*log.newest, commit))
    return Log((*log.files, _write(root, log.newest)), (commit,))


def read(root: Path, log: Log) -> list[Commit]:
    """Return all commits, oldest first.

    Raises
    ------
    CorruptFileError
        A file of the log is missing or damaged.
    """
    commits = []
    for file in log.files:
        try:
            lines = bytes(map_checked(root, file)).splitlines()
            commits += [decode_commit(json.loads(line)) for line in lines]
        except (ValueError, KeyError, TypeError, OverflowError) as error:
            raise CorruptFileError(root / file.name, "entries", "JSON lines", error) from error
    return [*commits, *log.newest]


def without_names(root: Path, log: Log, kept: Set[str]) -> Log:
    """Return the log with no remark, and no contribution named but the `kept` ones.

    Its files are written anew.
    """
    commits = [
        replace(
            commit,
            contributions=tuple(name for name in commit.contributions if name in kept),
            remark="",
        )
        for commit in read(root, log)
    ]
    scrubbed = Log()
    for start in range(0, len(commits), ENTRIES_A_FILE):
        part = tuple(commits[start : start + ENTRIES_A_FILE])
        if start + ENTRIES_A_FILE < len(commits):
            scrubbed = Log((*scrubbed.files, _write(root, part)), ())
        else:
            scrubbed = Log(scrubbed.files, part)
    return scrubbed


def _write(root: Path, commits: tuple[Commit, ...]) -> File:
    name = f"{LOG}/{commits[0].generation:06d}-{secrets.token_hex(4)}.jsonl"
    lines = "".join(json.dumps(commit.to_json()) + "\n" for commit in commits)
    written = fs.create_file(root / name, [lines.encode()])
    fs.sync_directory(root / LOG)
    return File(name, *written)
