"""``nearsearch remove``, ``disable``, ``enable`` and ``rollback``: what an index holds, changed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from nearsearch.cli.writing import add_options, busy, open_writer, summarise
from nearsearch.errors import UsageError

if TYPE_CHECKING:
    import argparse


def register(commands: Any) -> None:
    """Add the subcommands to the parser."""
    remove = commands.add_parser(
        "remove",
        help="remove or erase files, a contribution or a source",
        description="Remove the members that meet all conditions given. A picture that also came "
        "in another contribution stays there. What is removed no longer matches, but its bytes "
        "stay in the files and in earlier generations (nearsearch rollback) until --erase.",
        epilog="exit status: 0 something was removed, 1 nothing was, 2 error",
    )
    remove.add_argument("index", metavar="INDEX", help="the index directory")
    remove.add_argument("--key", metavar="K", action="append", help="a key; repeatable")
    remove.add_argument("--contribution", metavar="NAME", help="of this contribution")
    remove.add_argument("--source", metavar="NAME", help="from this source")
    remove.add_argument(
        "--where", metavar="EXPR", help="""that pass a filter, for instance 'width < 200'"""
    )
    remove.add_argument(
        "--erase",
        action="store_true",
        help="rewrite every file that holds anything removed, now or earlier, and keep no earlier "
        "generation; cannot be undone; also without a condition",
    )
    remove.add_argument(
        "--dry-run", action="store_true", help="only say how many members would be removed"
    )
    add_options(remove)
    remove.set_defaults(run=run_remove)
    for action, what in (
        ("disable", "let a contribution or source match no more, and keep it"),
        ("enable", "let a disabled contribution or source match again"),
    ):
        parser = commands.add_parser(
            action,
            help=what,
            description=f"{what[0].upper()}{what[1:]}. What is added to a disabled contribution "
            "is disabled too.",
        )
        parser.add_argument("index", metavar="INDEX", help="the index directory")
        parser.add_argument(
            "--contribution", metavar="NAME", action="append", default=[], help="repeatable"
        )
        parser.add_argument(
            "--source", metavar="NAME", action="append", default=[], help="repeatable"
        )
        add_options(parser)
        parser.set_defaults(run=run_switch, action=action)
    rollback = commands.add_parser(
        "rollback",
        help="make an earlier generation live again",
        description="Make what an index held at an earlier generation live again, as a new commit. "
        "What was removed since comes back; disable and enable are undone. Eight earlier "
        "generations can be gone back to, unless something was erased since; `nearsearch log` "
        "marks them. Commits that merge shards by themselves count too.",
    )
    rollback.add_argument("index", metavar="INDEX", help="the index directory")
    rollback.add_argument("generation", metavar="N", type=int, help="the generation")
    add_options(rollback)
    rollback.set_defaults(run=run_rollback)


def run_remove(options: argparse.Namespace) -> int:
    """Remove what was asked for and say how much it was."""
    from nearsearch.ingest import key_of

    with open_writer(options) as writer, busy("removing"):
        removed = writer.remove(
            keys=None if options.key is None else [key_of(key) for key in options.key],
            contribution=options.contribution,
            source=options.source,
            where=options.where,
            erase=options.erase,
        )
        # A mistyped condition must not cost the earlier generations.
        is_bare = not (options.key or options.contribution or options.source or options.where)
        does_erase = options.erase and not options.dry_run and (removed > 0 or is_bare)
        generation = writer.generation
        if options.dry_run or not (removed or does_erase):
            writer.close()
        else:
            generation = writer.commit()
    word = "would be removed" if options.dry_run else "removed"
    if does_erase:
        word = "removed, everything removed erased"
    facts = {"removed": removed, "erased": does_erase, "generation": generation}
    summarise(options, facts, f"{removed:,} members {word} (generation {generation})")
    return 0 if removed or does_erase else 1


def run_switch(options: argparse.Namespace) -> int:
    """Disable or enable all that was named, in one commit."""
    from nearsearch import Index

    if not options.contribution and not options.source:
        raise UsageError(f"{options.action}: name a --contribution or a --source")
    with open_writer(options) as writer, busy(f"{options.action.removesuffix('e')}ing"):
        switch = getattr(writer, options.action)
        for name in options.contribution:
            switch(contribution=name)
        for name in options.source:
            switch(source=name)
        generation = writer.commit()
    with Index.open(options.index) as index:
        stats = index.stats()
    names = [
        f"{what} {name!r}" for what in ("contribution", "source") for name in getattr(options, what)
    ]
    hidden = stats["disabled_members"]
    facts = {
        "contributions": options.contribution,
        "sources": options.source,
        "disabled_members": hidden,
        "generation": generation,
    }
    text = f"{options.action}d {', '.join(names)}: {hidden:,} of {stats['members']:,} members are "
    summarise(options, facts, f"{text}disabled (generation {generation})")
    return 0


def run_rollback(options: argparse.Namespace) -> int:
    """Go back and say what is live now."""
    from nearsearch import Index

    with open_writer(options) as writer:
        generation = writer.rollback(options.generation)
    with Index.open(options.index) as index:
        stats = index.stats()
    facts = {
        "rolled_back_to": options.generation,
        "items": stats["items"],
        "members": stats["members"],
        "generation": generation,
    }
    text = f"as of generation {options.generation}: {stats['items']:,} items, "
    summarise(options, facts, f"{text}{stats['members']:,} members (generation {generation})")
    return 0
