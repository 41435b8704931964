"""The ring of a shard on disk: built from the codes, and opened beside them.

Three NumPy files for each spec: ``layout`` (how codes are cut), ``offsets`` (directories) and
``postings``. All can be built again from the codes. A missing ring, or one that cannot be opened,
costs speed only; altered bytes cost matches, and `verify` finds them.
"""

from __future__ import annotations

import io
import warnings
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from nearsearch import plan
from nearsearch.errors import CorruptFileError, RingWarning
from nearsearch.store import fs
from nearsearch.store.files import map_checked

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from concurrent.futures import Future
    from pathlib import Path

    from numpy.typing import NDArray

    from nearsearch.store.files import File

PARTS: Final = ("layout", "offsets", "postings")
_PARTITIONS: Final = 512  # of a band while it is sorted: each then fits the second-level cache
_THREADS: Final = 2
_UNEVEN: Final = -1  # parity where the weights of the codes are of both kinds


@dataclass(frozen=True)
class Ring:
    """An opened ring, as `kernels.ring.search` takes it.

    Attributes
    ----------
    layout : (bands, 4) int64
        Start and width of each band in bits, where its directory begins in `offsets`, and how many
        bits stand beside each of its rows.
    table : (bytes, 256, words) uint64
        Where the bits of each byte of a code go.
    parity
        0 or 1 if all weights are even or odd, else -1.
    costs : (3,) float64
        Of a probe, of a candidate, and of a scan, in nanoseconds.
    """

    layout: NDArray[np.int64]
    table: NDArray[np.uint64]
    offsets: NDArray[np.uint32]
    postings: NDArray[np.uint16]
    parity: int
    costs: NDArray[np.float64]


def file_name(spec: str, part: str) -> str:
    """Return the name of one of the three files."""
    return f"{spec}.ring.{part}.npy"


def role(spec: str, part: str) -> str:
    """Return the role of the file in a manifest."""
    return f"ring/{spec}/{part}"


def is_role(role: str) -> bool:
    """Tell whether a role in a manifest is that of a ring's file."""
    return role.startswith("ring/")


def write(folder: Path, spec: str, codes: NDArray[np.uint8]) -> dict[str, fs.Written]:
    """Build the ring of distinct codes and write its files; return what was written, by part.

    Holds the permuted codes and three bands at a time: up to 74 bytes a code of 256 bits.
    """
    from nearsearch.kernels import ring as kernels

    n, bits = len(codes), 8 * codes.shape[1]
    widths = plan.band_widths(n, bits)
    permutation = plan.permutation(codes, widths)
    layout = _layout(widths, n)
    permuted = np.empty((n, bits // 64), np.uint64)
    table = _table(permutation, bits)
    step = -(-n // 16)
    row_bits = (n - 1).bit_length()

    def permute(start: int) -> int:
        part = slice(start, start + step)
        return kernels.permute_codes(codes[part], table, permuted[part])

    offsets = np.empty(int(layout[-1, 2]) + 2 ** widths[-1] + 1, np.uint32)

    def build_band(band: int) -> NDArray[np.uint16]:
        start, width, base, chain = (int(value) for value in layout[band])
        low = min(16, max(0, width - _PARTITIONS.bit_length() + 1))
        counts = np.zeros(1 << (width - low), np.int64)
        kernels.count_keys(permuted, start, width, low, counts)
        bounds = np.concatenate([[0], np.cumsum(counts)])
        parted = np.empty(n, np.uint64)
        kernels.partition(
            permuted, start, width, low, np.uint64(row_bits), chain, bounds[:-1].copy(), parted
        )
        postings = np.empty(3 * n, np.uint16)
        kernels.place(parted, bounds, low, offsets[base : base + 2**width + 1], postings)
        return postings

    def all_postings() -> Iterator[bytes | memoryview]:
        yield _header((len(widths) * n, 3), np.uint16)
        building: deque[Future[NDArray[np.uint16]]] = deque()
        for band in range(len(widths)):
            building.append(pool.submit(build_band, band))
            if len(building) > _THREADS:
                yield building.popleft().result().view(np.uint8).data
        for postings in building:
            yield postings.result().view(np.uint8).data

    written = {}
    with ThreadPoolExecutor(_THREADS) as pool:
        n_odd = sum(pool.map(permute, range(0, n, step)))
        written["postings"] = fs.create_file(folder / file_name(spec, "postings"), all_postings())
    parity = {0: 0, n: 1}.get(n_odd, _UNEVEN)
    described = np.concatenate([[bits, parity, len(widths)], widths, permutation])
    for part, array in (("offsets", offsets), ("layout", described.astype(np.int64))):
        header, data = _header(array.shape, array.dtype), array.view(np.uint8).data
        written[part] = fs.create_file(folder / file_name(spec, part), [header, data])
    return written


def open_ring(root: Path, files: Mapping[str, File], spec: str, n: int, bits: int) -> Ring | None:
    """Map the ring of a shard of `n` codes; None, with a warning, where it is missing or damaged.

    Sizes and the layout are checked. What a directory or posting says is not: the kernels stay
    inside the arrays whatever it is, and `verify` compares checksums.
    """
    entries = [files.get(role(spec, part)) for part in PARTS]
    if not any(entries):
        return None  # too few codes to have one
    try:
        arrays = [_map(root, entry) for entry in entries]
        described, offsets, postings = arrays
        widths, permutation, parity = _parse(described, bits)
        layout = _layout(widths, n)
        _expect(offsets, np.uint32, (int(layout[-1, 2]) + 2 ** widths[-1] + 1,))
        _expect(postings, np.uint16, (len(widths) * n, 3))
    except (CorruptFileError, OSError, ValueError) as error:
        reason = error.summary if isinstance(error, CorruptFileError) else str(error)
        warnings.warn(RingWarning(root, spec, reason), stacklevel=2)
        return None
    costs = [plan.PROBE_COST, plan.CANDIDATE_COST, plan.scan_cost(n, bits // 8)]
    return Ring(
        layout,
        _table(permutation, bits),
        offsets,
        postings.reshape(-1),
        parity,
        np.array(costs, np.float64),
    )


def _layout(widths: list[int], n: int) -> NDArray[np.int64]:
    chains = [plan.chain_bits(n, sum(widths), width) for width in widths]
    starts = np.cumsum([0, *widths[:-1]])
    bases = np.cumsum([0, *(2**width + 1 for width in widths[:-1])])
    return np.column_stack([starts, widths, bases, chains]).astype(np.int64)


def _table(permutation: NDArray[np.int64], bits: int) -> NDArray[np.uint64]:
    table = np.zeros((bits // 8, 256, bits // 64), np.uint64)
    values = np.arange(256)
    for place, bit in enumerate(permutation):
        byte, within = divmod(int(bit), 8)
        has_bit = ((values >> (7 - within)) & 1).astype(np.bool_)
        table[byte, has_bit, place // 64] |= np.uint64(1 << (place % 64))
    return table


def _parse(described: NDArray[np.int64], bits: int) -> tuple[list[int], NDArray[np.int64], int]:
    _expect(described, np.int64, described.shape[:1])
    if len(described) < 3 or described[0] != bits or described[1] not in (_UNEVEN, 0, 1):
        raise ValueError("the layout is of other codes")
    n_bands = int(described[2])
    widths = [int(width) for width in described[3 : 3 + n_bands]]
    permutation = described[3 + n_bands :]
    if n_bands < 2 or sum(widths) != bits or not all(1 <= width <= 32 for width in widths):
        raise ValueError("the bands do not make up a code")
    if not np.array_equal(np.sort(permutation), np.arange(bits)):
        raise ValueError("the layout does not place every bit once")
    return widths, permutation, int(described[1])


def _header(shape: tuple[int, ...], dtype: Any) -> bytes:
    header = io.BytesIO()
    described = {
        "descr": np.lib.format.dtype_to_descr(np.dtype(dtype)),
        "fortran_order": False,
        "shape": shape,
    }
    np.lib.format.write_array_header_1_0(header, described)
    return header.getvalue()


def _map(root: Path, file: File | None) -> NDArray[Any]:
    if file is None:
        raise ValueError("a file of it is not in the manifest")
    data = map_checked(root, file)
    header = io.BytesIO(bytes(data[: 1 << 10]))
    try:
        np.lib.format.read_magic(header)
        shape, _, dtype = np.lib.format.read_array_header_1_0(header)
    except Exception as error:  # it is read as Python text, and fails in as many ways as that
        raise ValueError(f"{file.name}: no header of NumPy: {error}") from error
    nbytes = int(np.prod(shape)) * dtype.itemsize
    if dtype.hasobject or header.tell() + nbytes != file.size:
        raise ValueError(f"{file.name}: its header does not fit its length")
    return data[header.tell() :].view(dtype).reshape(shape)


def _expect(array: NDArray[Any], dtype: Any, shape: tuple[int, ...]) -> None:
    if array.dtype != dtype or array.shape != shape:
        raise ValueError(f"expected {shape} {np.dtype(dtype)}, found {array.shape} {array.dtype}")
