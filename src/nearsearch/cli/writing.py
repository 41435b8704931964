"""What the commands that change an index share: who commits, waiting for the lock, one summary."""

from __future__ import annotations

import json
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator, Mapping

    from nearsearch import Writer


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that all of them have."""
    parser.add_argument(
        "--author",
        metavar="NAME",
        help="who commits, for `nearsearch log`; default: $NEARSEARCH_AUTHOR, or else the user",
    )
    parser.add_argument(
        "--wait",
        action="store_const",
        const=float("inf"),
        default=0.0,
        help="wait for another writer to finish, as long as it takes",
    )
    parser.add_argument(
        "--wait-at-most", metavar="S", dest="wait", type=float, help="wait S seconds at most"
    )
    parser.add_argument("--json", action="store_true", help="print the summary as one JSON line")


def tell_of_wait(owner: str) -> None:
    """Say that another writer is waited for."""
    from nearsearch.cli.output import printable, talk

    talk().print(f"waiting for {printable(owner)}")


def open_writer(options: argparse.Namespace, **more: Any) -> Writer:
    """Open the index for writing as the options say."""
    from nearsearch import Writer

    return Writer.open(
        options.index, author=options.author, wait=options.wait, on_wait=tell_of_wait, **more
    )


@contextmanager
def busy(what: str) -> Iterator[None]:
    """Show on a terminal that something is going on."""
    from nearsearch.cli.output import talk

    console = talk()
    if console.is_terminal:
        with console.status(what):
            yield
    else:
        yield


def summarise(options: argparse.Namespace, facts: Mapping[str, Any], text: str) -> None:
    """Print what was done: a line for people, or the facts as JSON."""
    from nearsearch.cli.output import printable

    sys.stdout.write((json.dumps(facts) if options.json else printable(text)) + "\n")
