"""nearsearch: embedded, exact search for near-duplicate pictures.

`Writer` adds files and codes to an index on disk, `Index` asks it. Importing this package loads
none of numba, faiss, pyarrow or PIL; they come with the first name that needs them.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from nearsearch.version import __version__

if TYPE_CHECKING:
    from nearsearch import errors
    from nearsearch.hashers import dihedral_codes, hash_array
    from nearsearch.hashes import FileHashes, Hashes, hash_files, hash_stream
    from nearsearch.index import Index
    from nearsearch.ingest import IngestReport
    from nearsearch.matches import Failure, Matches
    from nearsearch.media.sampling import Sampling
    from nearsearch.spec import Spec, get_spec
    from nearsearch.store.log import Commit
    from nearsearch.store.merging import MergeReport
    from nearsearch.store.repair import Repair, repair
    from nearsearch.store.verify import Damage, verify
    from nearsearch.workers import Limits, WorkerPool
    from nearsearch.writer import Writer

_HOMES = {
    "Commit": "store.log",
    "Damage": "store.verify",
    "Failure": "matches",
    "FileHashes": "hashes",
    "Hashes": "hashes",
    "Index": "index",
    "IngestReport": "ingest",
    "Limits": "workers",
    "Matches": "matches",
    "MergeReport": "store.merging",
    "Repair": "store.repair",
    "Sampling": "media.sampling",
    "Spec": "spec",
    "WorkerPool": "workers",
    "Writer": "writer",
    "dihedral_codes": "hashers",
    "errors": "errors",
    "get_spec": "spec",
    "hash_array": "hashers",
    "hash_files": "hashes",
    "hash_stream": "hashes",
    "repair": "store.repair",
    "verify": "store.verify",
}

__all__ = [
    "Commit",
    "Damage",
    "Failure",
    "FileHashes",
    "Hashes",
    "Index",
    "IngestReport",
    "Limits",
    "Matches",
    "MergeReport",
    "Repair",
    "Sampling",
    "Spec",
    "WorkerPool",
    "Writer",
    "__version__",
    "dihedral_codes",
    "errors",
    "get_spec",
    "hash_array",
    "hash_files",
    "hash_stream",
    "repair",
    "verify",
]


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'nearsearch' has no attribute {name!r}")
    module = importlib.import_module(f"nearsearch.{home}")
    return module if home == name else getattr(module, name)


def __dir__() -> list[str]:
    return __all__
