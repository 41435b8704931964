"""What a code *is*: algorithm, length, version, decode profile. Only equal specs compare.

This module owns the names and defaults of the specs. It refuses to know how a code is computed
(`hashers`) or how a picture is decoded (`media`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from nearsearch.errors import SpecMismatchError, UnknownSpecError


@dataclass(frozen=True, slots=True)
class Spec:
    """The identity of a kind of code. Two codes may be compared only if their specs are equal.

    Attributes
    ----------
    algorithm
        Field name of the hash, for instance ``"pdq"``.
    bits
        Length of a code in bits; a multiple of 64.
    version
        Rises whenever any bit of any code can change, for whatever reason.
    profile
        Decode profile: which pixels of a file the algorithm sees, ``"luma-2048"`` or ``"full"``.
    """

    algorithm: str
    bits: int
    version: int
    profile: str

    @property
    def name(self) -> str:
        """Short name, used on the command line and in file names: ``pdq``, ``phash-256``."""
        family = FAMILIES.get(self.algorithm)  # an index may hold specs of a later version
        is_default = family is not None and self.bits == family.bits[0]
        return self.algorithm if is_default else f"{self.algorithm}-{self.bits}"

    def __str__(self) -> str:
        """Return the whole identity, for messages."""
        return f"{self.name} (version {self.version}, {self.profile})"

    @property
    def code_bytes(self) -> int:
        """Length of one code in bytes."""
        return self.bits // 8

    @property
    def default_radius(self) -> int:
        """Inclusive search radius in bits that is used when the caller names none."""
        family = FAMILIES.get(self.algorithm)
        return family.radius * self.bits // family.bits[0] if family else 0

    @property
    def default_min_quality(self) -> int:
        """Codes of pictures below this quality (0..100) match only on request."""
        return MIN_QUALITY

    def to_json(self) -> dict[str, Any]:
        """Return the fields as a JSON object, as manifests hold them."""
        return {
            "algorithm": self.algorithm,
            "bits": self.bits,
            "version": self.version,
            "profile": self.profile,
        }


class Family(NamedTuple):
    """One algorithm and the lengths it comes in; ``bits[0]`` is the one its bare name means."""

    bits: tuple[int, ...]
    version: int
    profile: str
    radius: int  # at bits[0]; longer codes scale it


PROFILES: Final = {
    "luma-2048": (
        "JPEG: luma plane only, reduced by 1/2, 1/4 or 1/8 inside the decoder while the shorter "
        "side stays >= 2048 pixels. Everything else: full decode."
    ),
    "full": "Full decode to 8-bit RGB.",
}
"""Decode profiles. Both apply EXIF orientation and lay transparency over white."""

FAMILIES: Final = {
    "pdq": Family((256,), 1, "luma-2048", 31),
    "wdct": Family((256,), 1, "luma-2048", 40),
    "phash": Family((64, 256, 576, 1024), 1, "full", 8),
    "dhash": Family((64, 256, 576, 1024), 1, "full", 4),
    "ahash": Family((64, 256, 576, 1024), 1, "full", 2),
    "whash": Family((64, 256, 1024), 1, "full", 4),
}
"""Every algorithm this version can compute."""

DEFAULT_SPECS: Final = ("pdq", "wdct")
"""What a new index holds: what others exchange, and what finds more. Bare codes are the first."""

MIN_QUALITY: Final = 50
"""PDQ's published quality floor (0..100); pictures below it have too little texture to compare."""


def spec_names() -> list[str]:
    """Return the names of all specs this version can compute, defaults first."""
    specs = [
        Spec(algorithm, bits, family.version, family.profile)
        for algorithm, family in FAMILIES.items()
        for bits in family.bits
    ]
    return [spec.name for spec in specs]


def get_spec(name: str | Spec) -> Spec:
    """Return the spec called `name` (``"pdq"``, ``"phash"``, ``"phash-256"``); a `Spec` is itself.

    Raises
    ------
    UnknownSpecError
        No algorithm of that name or no code of that length; the message lists the known names.
    """
    if isinstance(name, Spec):
        return name
    algorithm, _, length = name.partition("-")
    family = FAMILIES.get(algorithm)
    if family is not None and (not length or length.isdecimal()):
        bits = int(length) if length else family.bits[0]
        if bits in family.bits:
            return Spec(algorithm, bits, family.version, family.profile)
    raise UnknownSpecError(name, spec_names())


def check_computable(spec: Spec, where: str) -> None:
    """Check that this version computes `spec` as it was computed for the index `where`.

    Raises
    ------
    SpecMismatchError
        This version's codes of that name are others.
    """
    ours = get_spec(spec.name)
    if ours != spec:
        raise SpecMismatchError(
            where,
            str(spec),
            str(ours),
            "hash pictures with the version of nearsearch that wrote the index, or build it anew",
        )


def check_equal(expected: Spec, actual: Spec) -> None:
    """Raise `SpecMismatchError` unless the two specs are equal."""
    if actual != expected:
        raise SpecMismatchError("codes", str(expected), str(actual), "codes of two specs differ")
