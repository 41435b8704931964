"""Codes as arrays: hex, packing, bit order, identity and duplicates.

The only module that knows the bit order: byte order is hex order (``bytes.fromhex(hex)``), the
most significant bit of a byte first, as FAISS, python-threatexchange and imagehash's hex hold it.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from nearsearch.errors import CodesError, DigestError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from nearsearch.spec import Spec

_PART: Final = 1 << 17  # messages a thread hashes at a time, 20 ms


def as_codes(value: Any, spec: Spec) -> NDArray[np.uint8]:
    """Return `value` as codes of `spec`: an array (n, spec.bits // 8) uint8, C-contiguous.

    Parameters
    ----------
    value
        An array (n, bytes) or (bytes,) uint8; a hex string of ``bits // 4`` digits; an
        `imagehash.ImageHash`; or a sequence of the last two. Arrays are returned as they are when
        they fit, so the result may share memory with the caller.
    spec
        The spec the codes are of; only its length is used.

    Raises
    ------
    CodesError
        Wrong dtype, shape, length, or text that is not hexadecimal.
    """
    expected = f"(n, {spec.code_bytes}) uint8 ({spec.name})"
    if isinstance(value, np.ndarray):
        if value.dtype != np.uint8 or value.ndim not in (1, 2):
            raise CodesError(expected, f"{value.shape} {value.dtype}")
        codes = value.reshape(1, -1) if value.ndim == 1 else value
        if codes.shape[1] != spec.code_bytes:
            raise CodesError(expected, f"{value.shape} {value.dtype}")
        return np.ascontiguousarray(codes)
    if isinstance(value, str) or _is_image_hash(value):
        value = [value]
    if not isinstance(value, Sequence):
        raise CodesError(expected, f"a {type(value).__name__}")
    rows = [_one_code(entry, spec, number) for number, entry in enumerate(value)]
    return np.frombuffer(b"".join(rows), np.uint8).reshape(len(rows), spec.code_bytes)


DIGEST_BYTES: Final = {"md5": 16, "sha1": 20, "sha256": 32}
"""Digests of files by which hash lists know them, and their lengths."""


def as_digest(value: Any, kind: str | None = None) -> bytes:
    """Return a digest given in hex or as bytes; `kind` says which, else its length does.

    Raises
    ------
    DigestError
        It is not hex, or of another length.
    """
    expected = [DIGEST_BYTES[kind]] if kind else list(DIGEST_BYTES.values())
    try:
        digest = bytes.fromhex(value) if isinstance(value, str) else bytes(memoryview(value))
    except (ValueError, TypeError):
        raise DigestError(kind, value) from None
    if len(digest) not in expected:
        raise DigestError(kind, value)
    return digest


def unhashed_id(sha256: bytes, problem: str = "") -> bytes:
    """Return the item id of a file that has no code, or not all that it should have.

    Not its SHA-256: that is the id it will have when a later version, or one with a plug-in, reads
    it whole. Items do not change.
    """
    message = sha256 + problem.encode("utf-8", "surrogatepass")
    return hashlib.blake2b(message, digest_size=32, person=b"nearsearch file").digest()


def to_hex(codes: NDArray[np.uint8]) -> list[str]:
    """Return the lower-case hex of each row of `codes`, (n, bytes) uint8."""
    width = 2 * codes.shape[1]
    text = codes.tobytes().hex()
    return [text[start : start + width] for start in range(0, len(text), width)]


def record_ids(
    codes: NDArray[np.uint8], qualities: NDArray[np.int8], spec: Spec
) -> NDArray[np.uint8]:
    """Return the item ids of records that are known only by a code: (n, 32) uint8.

    An id is the BLAKE2b digest of the code and the quality its source gives it, personalised with
    the spec; that of a file is the SHA-256 of its bytes. Both are cryptographic because a hash list
    can be crafted: if two codes could be made to share an id, one of them would be lost. The
    quality is part of it so that one source's low quality does not hide the code of another.

    Parameters
    ----------
    codes
        (n, bytes) uint8, C-contiguous, bytes a multiple of 8.
    qualities
        (n,) int8, 0..100, -1 where unknown.

    Notes
    -----
    ``blake2b(code + quality, digest_size=32, salt=b"pdq-256/1", person=b"nearsearch code")`` of
    hashlib, the quality as 8 bytes, little-endian, signed, the salt naming algorithm, bits and
    version; 0.2 s of one core per million codes, where hashlib takes 0.7 s.
    """
    from nearsearch.kernels.blake2b import BLOCK, hash_messages, initial_state

    words = codes.shape[1] // 8
    messages = np.empty((len(codes), words + 1), np.uint64)
    messages[:, :words] = codes.view("<u8")
    messages[:, words] = qualities.astype(np.int64).view(np.uint64)
    salt = f"{spec.algorithm}-{spec.bits}/{spec.version}".encode()[:16]
    person = b"nearsearch code"
    length = 8 * (words + 1)
    if length > BLOCK:
        digests = (
            hashlib.blake2b(message, digest_size=32, salt=salt, person=person).digest()
            for message in messages
        )
        return np.frombuffer(b"".join(digests), np.uint8).reshape(-1, 32)
    ids = np.empty((len(codes), 4), np.uint64)
    state = initial_state(salt, person)

    def hash_part(start: int) -> None:
        part = slice(start, start + _PART)
        hash_messages(messages[part], state, length, ids[part])

    if len(codes) <= _PART:
        hash_part(0)
        return ids.view(np.uint8)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(hash_part, range(0, len(codes), _PART)))
    return ids.view(np.uint8)


def distinct(codes: NDArray[np.uint8]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Find the distinct rows of `codes`, numbered in order of first appearance.

    Parameters
    ----------
    codes
        (n, bytes) uint8, C-contiguous, bytes a multiple of 8.

    Returns
    -------
    first : (d,) int64
        Row of the first appearance of each distinct code, ascending.
    number : (n,) int64
        Number of each row's code, so ``codes[first][number]`` equals `codes`.

    Notes
    -----
    Sorts a 64-bit mix of each code: 0.03 s per million of 256 bits if all differ, else 0.07 s,
    where sorting the codes themselves takes 0.25 s. Should two codes share a mix and differ, all
    go the slow way.
    """
    if len(codes) == 0:
        return np.empty(0, np.int64), np.empty(0, np.int64)
    words = codes.view("<u8")
    mix = np.zeros(len(codes), np.uint64)
    for column in words.T:
        mix = (mix ^ column) * np.uint64(0x9E3779B97F4A7C15)
        mix ^= mix >> np.uint64(29)
    ordered_mix = np.sort(mix)
    is_new = np.empty(len(codes), np.bool_)
    is_new[0] = True
    np.not_equal(ordered_mix[1:], ordered_mix[:-1], out=is_new[1:])
    if is_new.all():
        return np.arange(len(codes)), np.arange(len(codes))
    order = np.argsort(mix)
    repeats = np.flatnonzero(~is_new)
    if (words[order[repeats]] != words[order[repeats - 1]]).any():
        order = np.lexsort(words.T)
        is_new[1:] = (words[order[1:]] != words[order[:-1]]).any(axis=1)
    starts = np.flatnonzero(is_new)
    first = np.minimum.reduceat(order, starts)
    by_appearance = np.argsort(first)
    rank = np.empty_like(by_appearance)
    rank[by_appearance] = np.arange(len(first))
    number = np.empty(len(codes), np.int64)
    number[order] = rank[np.cumsum(is_new) - 1]
    return first[by_appearance], number


def _is_image_hash(value: object) -> bool:
    """Tell an `imagehash.ImageHash` without importing imagehash (and scipy with it)."""
    return type(value).__name__ == "ImageHash" and isinstance(
        getattr(value, "hash", None), np.ndarray
    )


def _one_code(entry: Any, spec: Spec, number: int) -> bytes:
    expected = f"{spec.bits} bits ({spec.name})"
    if _is_image_hash(entry):
        bits = np.asarray(entry.hash, np.bool_).ravel()
        if bits.size != spec.bits:
            raise CodesError(expected, f"an ImageHash of {bits.size} bits at position {number}")
        return np.packbits(bits).tobytes()
    if isinstance(entry, np.ndarray) and entry.dtype == np.uint8 and entry.size == spec.code_bytes:
        return entry.tobytes()
    if isinstance(entry, str):
        try:
            code = bytes.fromhex(entry)
        except ValueError:
            raise CodesError(expected, f"{entry!r} at position {number}, not hex") from None
        if len(code) != spec.code_bytes:
            raise CodesError(expected, f"{8 * len(code)} bits at position {number}")
        return code
    raise CodesError(expected, f"a {type(entry).__name__} at position {number}")
