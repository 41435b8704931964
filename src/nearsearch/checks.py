"""Checks of plain arguments, shared by all that take them."""

from __future__ import annotations

import operator
import unicodedata
from typing import TYPE_CHECKING, Any

from nearsearch.errors import UsageError

if TYPE_CHECKING:
    import os


def check_name(what: str, text: Any) -> None:
    """Raise `UsageError` unless `text` is text that can be stored and shown."""
    if not isinstance(text, str):
        raise UsageError(f"{what}: expected text, got a {type(text).__name__}")
    if any(unicodedata.category(character) == "Cs" for character in text):
        raise UsageError(f"{what} {text!r}: not UTF-8, and cannot be stored")
    if any(unicodedata.category(character) == "Cc" for character in text):
        raise UsageError(f"{what} {text!r}: control characters cannot be stored")


def check_names(**names: str | None) -> None:
    """Check those names that are not None, each called what its argument is called."""
    for what, name in names.items():
        if name is not None:
            check_name(what, name)


def file_time(status: os.stat_result) -> int:
    """Return a file's modification time in nanoseconds since 1970, within 64 bits.

    Some file systems hold times that are millions of years away.
    """
    return min(max(status.st_mtime_ns, -(1 << 63)), (1 << 63) - 1)


def whole(what: str, value: Any, low: int, high: int) -> int:
    """Return a whole number within bounds, both inclusive; raises `UsageError` for others."""
    try:
        number = operator.index(value)
    except TypeError:
        raise UsageError(f"{what}: expected a whole number, got {value!r}") from None
    if not low <= number <= high:
        raise UsageError(f"{what}: expected {low} to {high}, got {number}")
    return number


def seconds(what: str, value: Any) -> float:
    """Return a time in seconds, which may be infinite; raises `UsageError` for what is none."""
    if not isinstance(value, int | float) or not value >= 0:
        raise UsageError(f"{what}: expected seconds, 0 or more, got {value!r}")
    return float(value)
