"""An index begins, and may be given up again before its first commit."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Final

from nearsearch.errors import CorruptFileError, IndexExistsError, SpecMismatchError
from nearsearch.store import fs
from nearsearch.store import manifest as manifests
from nearsearch.store.manifest import CURRENT, Manifest
from nearsearch.store.retention import FOLDERS, collect, is_ours

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from nearsearch.spec import Spec
    from nearsearch.store.manifest import Pointer

LOCK: Final = "writer.lock"
_EMPTY: Final = Manifest(0, ())


def check_creatable(root: Path) -> None:
    """Check that an index may be created at `root`: it is absent, empty, or was begun before.

    Raises
    ------
    IndexExistsError
        It holds anything that is not ours.
    CorruptFileError
        It holds an index whose ``CURRENT`` is gone: nothing must be written over that.
    """
    if not fs.exists(root):
        return
    if not fs.is_directory(root) and fs.size_of(root) is not None:
        raise IndexExistsError(root)
    names = fs.list_directory(root)
    if any(manifests.generation_of(name) for name in names):
        remedy = "the output of 'sha256sum manifest-N.json' for the highest N"
        raise CorruptFileError(root / CURRENT, "content", remedy, "no file")
    for name in names:
        is_empty_folder = (
            name in FOLDERS and fs.is_directory(root / name) and not fs.list_directory(root / name)
        )
        if name != LOCK and not is_ours(name) and not is_empty_folder:
            raise IndexExistsError(root)


def create(root: Path, specs: tuple[Spec, ...]) -> None:
    """Make an empty index: generation 0, before the first commit. Needs the lock."""
    check_creatable(root)
    ensure_folders(root)
    manifests.make_current(root, Manifest(0, specs))


def ensure_folders(root: Path) -> None:
    """Make the folders that are not there: copying an index can lose empty ones."""
    for name in FOLDERS:
        if not fs.exists(root / name):
            fs.make_directory(root / name)


def give_up(root: Path) -> None:
    """Take back what `create` made, by name; where files are left, an empty index stays."""
    for name in FOLDERS:
        fs.remove_empty(root / name)
    if any(fs.exists(root / name) for name in FOLDERS):
        return
    fs.remove(root / CURRENT)
    fs.remove(root / _EMPTY.name)
    fs.remove(root / LOCK)
    fs.remove_empty(root)


def open_to_write(
    root: Path,
    specs: tuple[Spec, ...] | None,
    *,
    create_with: tuple[Spec, ...] | None,
    wait: float,
    on_wait: Callable[[str], None] | None,
) -> tuple[fs.Lock, Pointer, bool]:
    """Take the lock of an index, and make the index first if there is none.

    Parameters
    ----------
    specs
        What the index must have, if not None.
    create_with
        The specs of a new index; None if it must exist.

    Returns
    -------
    lock, pointer, is_new
        The held lock, the live manifest, and whether the index was made here.

    Raises
    ------
    IndexNotFoundError, IndexExistsError, IndexLockedError, SpecMismatchError, CorruptFileError
    """
    lock = None
    while lock is None:
        may_create = create_with is not None and not fs.exists(root / CURRENT)
        if may_create:
            check_creatable(root)
            if not fs.exists(root):
                fs.make_directory(root, parents=True)
        else:
            manifests.read_pointer(root)  # raises if there is no index
        with suppress(FileNotFoundError):  # another one has just given up what it had begun
            lock = fs.Lock(root / LOCK, wait, on_wait)
    try:
        is_new = may_create and not fs.exists(root / CURRENT)
        if is_new and create_with:
            create(root, create_with)
        pointer = manifests.read_pointer(root)
        base = manifests.read(root, pointer)
        if specs is not None and set(specs) != set(base.specs):
            raise SpecMismatchError(
                str(root),
                ", ".join(map(str, base.specs)),
                ", ".join(map(str, specs)),
                "an index keeps the specs it was created with",
            )
        ensure_folders(root)
        collect(root, base)
    except BaseException:
        lock.release()
        raise
    return lock, pointer, is_new
