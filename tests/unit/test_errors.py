"""Errors: the facts stay in fields, the message says what, where and what to do next."""

from __future__ import annotations

import copy
import inspect
import pickle
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from nearsearch import errors


class Case(NamedTuple):
    cls: type[errors.NearsearchError]
    arguments: tuple[Any, ...]
    fields: dict[str, Any]
    says: tuple[str, ...]
    bases: tuple[type[BaseException], ...]


CASES = [
    Case(
        errors.UnknownSpecError,
        ("pqd", ("pdq", "phash")),
        {"name": "pqd", "known": ["pdq", "phash"]},
        ("unknown spec 'pqd'", "this version knows: pdq, phash"),
        (errors.UsageError, ValueError),
    ),
    Case(
        errors.SpecMismatchError,
        ("known.ns", "pdq (version 1)", "phash (version 1)", "hash it again"),
        {"what": "known.ns", "expected": "pdq (version 1)", "actual": "phash (version 1)"},
        (
            "known.ns",
            "expected spec pdq (version 1)",
            "got phash (version 1)",
            "hash it again",
        ),
        (errors.UsageError, ValueError),
    ),
    Case(
        errors.CodesError,
        ("(n, 32) uint8", "(3, 31) uint8"),
        {"expected": "(n, 32) uint8", "actual": "(3, 31) uint8"},
        ("codes", "expected (n, 32) uint8", "got (3, 31) uint8"),
        (errors.UsageError, ValueError),
    ),
    Case(
        errors.DigestError,
        ("sha1", "xyz"),
        {"kind": "sha1", "value": "xyz"},
        ("sha1", "expected 40 hexadecimal digits", "got 'xyz'"),
        (errors.UsageError, ValueError),
    ),
    Case(
        errors.DigestError,
        (None, b"\n"),
        {"kind": None, "value": b"\n"},
        ("digest", "expected 32, 40 or 64 hexadecimal digits", r"got b'\n'"),
        (errors.UsageError, ValueError),
    ),
    Case(
        errors.DuplicateKeyError,
        ("a\n.jpg", "NL-0042"),
        {"key": "a\n.jpg", "contribution": "NL-0042"},
        (r"'a\n.jpg'", "'NL-0042'", "give each record its own key"),
        (errors.UsageError, ValueError),
    ),
    Case(
        errors.UnknownColumnError,
        ("colour", ("key", "source")),
        {"column": "colour", "columns": ["key", "source"]},
        ("no column 'colour'", "the columns are: key, source"),
        (errors.UsageError, ValueError),
    ),
    Case(
        errors.UnknownNameError,
        ("contribution", "NL-42", ("NL-0042", "NL-0043")),
        {"what": "contribution", "name": "NL-42", "similar": ["NL-0042", "NL-0043"]},
        ("no contribution 'NL-42'", "is it one of 'NL-0042', 'NL-0043'?"),
        (errors.UsageError, ValueError),
    ),
    Case(
        errors.FilterSyntaxError,
        ("source = 1", "invalid syntax"),
        {"text": "source = 1", "reason": "invalid syntax"},
        ("'source = 1'", "invalid syntax", 'contribution == "NL-0042"'),
        (errors.UsageError, ValueError),
    ),
    Case(
        errors.MetadataError,
        ("key", "this name is taken; rename the column"),
        {"column": "key", "reason": "this name is taken; rename the column"},
        ("metadata column 'key'", "this name is taken", "rename the column"),
        (errors.UsageError, ValueError),
    ),
    Case(
        errors.IndexNotFoundError,
        (Path("/data/known.ns"), "there is no such directory"),
        {"path": "/data/known.ns", "reason": "there is no such directory"},
        (
            "no index at /data/known.ns",
            "there is no such directory",
            "`nearsearch add` creates one",
        ),
        (FileNotFoundError, OSError),
    ),
    Case(
        errors.IndexExistsError,
        (Path("/home/me"),),
        {"path": "/home/me"},
        ("/home/me", "is not a nearsearch index", "choose another path", "nothing was changed"),
        (FileExistsError, OSError),
    ),
    Case(
        errors.IndexLockedError,
        (Path("known.ns"), "process 7 on host since noon"),
        {"path": "known.ns", "owner": "process 7 on host since noon"},
        ("known.ns", "process 7 on host since noon", "readers are not affected", "try again"),
        (),
    ),
    Case(
        errors.GenerationNotKeptError,
        (Path("known.ns"), 3, (5, 6)),
        {"path": "known.ns", "generation": 3, "kept": [5, 6]},
        ("known.ns", "generation 3 is not kept", "those that are: 5, 6"),
        (LookupError,),
    ),
    Case(
        errors.EraseIncompleteError,
        (Path("known.ns"), ["known.ns/a", "known.ns/b"]),
        {"path": "known.ns", "left": ["known.ns/a", "known.ns/b"]},
        ("known.ns", "erased is still in known.ns/a, known.ns/b", "remove them"),
        (),
    ),
    Case(
        errors.OutcomeUnknownError,
        (Path("known.ns"), 7),
        {"path": "known.ns", "generation": 7},
        ("known.ns", "generation 7", "may be live or not", "open the index again"),
        (),
    ),
    Case(
        errors.ClosedError,
        ("writer",),
        {"what": "writer"},
        ("this writer is closed", "open it again"),
        (),
    ),
    Case(
        errors.CorruptFileError,
        (Path("known.ns/CURRENT"), "length", 10, 9),
        {"path": "known.ns/CURRENT", "what": "length", "expected": 10, "actual": 9},
        (
            *("known.ns/CURRENT", "length", "expected 10", "found 9"),
            *("`nearsearch verify`", "restore", "`nearsearch repair`"),
        ),
        (errors.FormatError,),
    ),
    Case(
        errors.FormatTooNewError,
        (Path("known.ns/manifest-000001.json"), 9, 1),
        {"path": "known.ns/manifest-000001.json", "found": 9, "supported": 1},
        ("manifest-000001.json", "format_version 9", "up to 1", "upgrade nearsearch"),
        (errors.FormatError,),
    ),
    Case(
        errors.FormatTooOldError,
        (Path("known.ns/manifest-000001.json"), 1, 2),
        {"path": "known.ns/manifest-000001.json", "found": 1, "supported": 2},
        (
            *("manifest-000001.json", "format_version 1", "this version reads 2"),
            "add the files again, to a new index",
        ),
        (errors.FormatError,),
    ),
    Case(
        errors.MediaError,
        ("truncated", "decode"),
        {"reason": "truncated", "stage": "decode"},
        ("decode: truncated",),
        (),
    ),
    Case(
        errors.NotMediaError,
        ("no known picture format",),
        {"reason": "no known picture format", "stage": "sniff"},
        ("sniff: no known picture format",),
        (errors.MediaError,),
    ),
    Case(
        errors.WorkerStartError,
        (OSError(2, "No such file or directory"),),
        {"detail": "[Errno 2] No such file or directory"},
        ("a hashing process did not start", "No such file or directory"),
        (),
    ),
    Case(
        errors.ExchangeError,
        (Path("feed.txt"), 7, "a quality from 0 to 100", "'101'", "entry"),
        {
            "path": "feed.txt",
            "line": 7,
            "unit": "entry",
            "expected": "a quality from 0 to 100",
            "actual": "'101'",
        },
        (
            *("feed.txt: entry 7", "expected a quality from 0 to 100", "found '101'"),
            *("correct it", "on_bad, where given"),
        ),
        (ValueError,),
    ),
]
PLAIN = [errors.NearsearchError, errors.UsageError, errors.FormatError]  # no fields of their own
each = pytest.mark.parametrize("case", CASES, ids=lambda case: case.cls.__name__)


def test_every_error_of_the_module_is_covered_here():
    defined = {
        value
        for value in vars(errors).values()
        if inspect.isclass(value)
        and value.__module__ == errors.__name__
        and not issubclass(value, Warning)
    }
    assert defined == {case.cls for case in CASES} | set(PLAIN)


@each
def test_fields_keep_the_facts(case):
    error = case.cls(*case.arguments)
    assert {name: getattr(error, name) for name in case.fields} == case.fields
    assert vars(error).keys() == case.fields.keys()


@each
def test_the_message_says_what_where_and_what_next(case):
    message = str(case.cls(*case.arguments))
    missing = [words for words in case.says if words not in message]
    assert not missing, message
    assert "\n" not in message


@each
def test_classes_can_be_caught_as_their_bases(case):
    for base in (errors.NearsearchError, *case.bases):
        with pytest.raises(base):
            raise case.cls(*case.arguments)


def test_faults_of_the_system_and_of_the_request_are_apart():
    request = {case.cls for case in CASES if issubclass(case.cls, errors.UsageError)}
    system = {case.cls for case in CASES if issubclass(case.cls, OSError)}
    assert {cls.__name__ for cls in system} == {"IndexNotFoundError", "IndexExistsError"}
    assert not request & system
    assert not issubclass(errors.FormatError, ValueError)


def test_sequences_are_copied():
    known = ["pdq"]
    error = errors.UnknownSpecError("x", known)
    known.append("phash")
    assert error.known == ["pdq"]


@each
def test_errors_survive_the_way_between_processes(case):
    """A caller's process pool pickles what its workers raise; losing the error breaks the pool."""
    error = case.cls(*case.arguments)
    for twin in (pickle.loads(pickle.dumps(error)), copy.copy(error)):
        assert type(twin) is case.cls
        assert str(twin) == str(error)
        assert vars(twin) == vars(error)


def test_the_warning_says_what_it_costs():
    warning = errors.RingWarning(Path("known.ns"), "pdq", "a file is gone")
    assert (warning.path, warning.spec, warning.reason) == ("known.ns", "pdq", "a file is gone")
    for words in (
        "known.ns",
        "ring of pdq",
        "a file is gone",
        "with the same answers",
        "compact known",
    ):
        assert words in str(warning)


def test_a_name_like_no_other_is_said_to_be_unknown_only():
    assert str(errors.UnknownNameError("source", "x", [])) == "the index has no source 'x'"


def test_the_summary_of_damage_leaves_out_what_to_do():
    error = errors.CorruptFileError(Path("known.ns/CURRENT"), "length", 10, 9)
    assert error.summary == "known.ns/CURRENT: length: expected 10, found 9"


def test_a_failed_merge_is_said_to_cost_nothing():
    warning = errors.CompactionWarning(Path("known.ns"), "disk full")
    assert (warning.path, warning.reason) == ("known.ns", "disk full")
    for words in ("known.ns", "everything is committed", "disk full", "the next commit"):
        assert words in str(warning)
