"""How the documentation is built: ``sphinx-build -W -n -b html docs build/docs``.

Needs no network: no inventory of another project is fetched, and the theme brings its own fonts.
"""

from __future__ import annotations

import argparse
import ast
import inspect
import os
import re
import textwrap
from importlib import import_module
from typing import TYPE_CHECKING, Any, ClassVar

from docutils import nodes
from sphinx.util.docutils import SphinxDirective
from sphinx.util.nodes import make_refnode

from nearsearch.cli import build_parser
from nearsearch.errors import NearsearchError
from nearsearch.version import __version__

if TYPE_CHECKING:
    from sphinx.addnodes import pending_xref
    from sphinx.application import Sphinx
    from sphinx.environment import BuildEnvironment

project = "nearsearch"
release = version = __version__
copyright = "the authors of nearsearch"
language = "en"

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "numpydoc",
]

myst_enable_extensions = ["deflist"]
myst_heading_anchors = 4

html_theme = "furo"
html_title = f"nearsearch {release}"
html_copy_source = False
html_show_sourcelink = False
html_show_copyright = False

# --- the reference ------------------------------------------------------------------------------

default_role = "py:obj"  # docstrings write names in single backticks
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_preserve_defaults = True
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 88
add_module_names = False
numpydoc_show_class_members = False  # autodoc shows them

nitpicky = True
nitpick_ignore_regex = [
    # Types of Python, NumPy and Arrow in signatures: their inventories would have to be fetched.
    ("py:class", r"(collections\.abc|typing|numpy|np|pyarrow|pa|pc|os|types|enum)\..*"),
    ("py:class", r"(str|bytes|int|float|bool|object|list|tuple|dict|None|Exception|UserWarning)"),
    ("py:class", r"(Any|Callable|Iterable|Iterator|Mapping|Sequence|Self|Literal|NDArray)"),
    ("py:class", r"(ArrayLike|PathLike|AnyPath|Pixels|TracebackType|optional)"),
    ("py:class", r"(ValueError|LookupError|FileNotFoundError|FileExistsError)"),
    # For code that builds on the store; no promise is made about it.
    ("py:class", r"nearsearch\.store\.snapshot\.Snapshot"),
    # Of Python and of other libraries, in the text of docstrings.
    ("py:obj", r"OSError|imagehash\..*|pyarrow\..*"),
]


class CommandHelp(SphinxDirective):
    """``{command-help} add``: the help text of a command, of the code that is documented."""

    optional_arguments = 1
    option_spec: ClassVar[dict[str, Any]] = {}

    def run(self) -> list[nodes.Node]:
        """Return the text as it is printed."""
        parser = build_parser()
        for name in self.arguments:
            (commands,) = (
                action
                for action in parser._actions
                if isinstance(action, argparse._SubParsersAction)
            )
            parser = commands.choices[name]
        text = parser.format_help()
        return [nodes.literal_block(text, text, language="text")]


def resolve(
    app: Sphinx, env: BuildEnvironment, node: pending_xref, content: nodes.TextElement
) -> nodes.Node | None:
    """Find a public name by its end, as docstrings write it: `Index.open`, `UsageError`.

    A field that its class describes is found where the class is. A word in small letters that is
    no public name is a parameter, a column or a module, and is shown as it is. What else is not
    found is a warning: names are public, or not in docstrings.
    """
    if node.get("refdomain") != "py":
        return None
    objects = env.get_domain("py").objects  # type: ignore[attr-defined]
    target = node["reftarget"].removeprefix("nearsearch.")
    owner, _, field = target.rpartition(".")
    for name in objects:
        is_it = f".{name}".endswith(f".{target}")
        if is_it or (owner and f".{name}".endswith(f".{owner}") and _has_field(name, field)):
            page, place = objects[name].docname, objects[name].node_id
            return make_refnode(app.builder, node["refdoc"], page, place, content, name)
    is_word = target.replace("_", "").isalnum() and target == target.lower()
    return content if node["reftype"] == "obj" and is_word else None


def _has_field(name: str, field: str) -> bool:
    module, _, owner = name.rpartition(".")
    return field in getattr(getattr(import_module(module), owner), "__annotations__", ())


def link_errors(
    app: Sphinx, what: str, name: str, value: Any, options: Any, lines: list[str]
) -> None:
    """Make references of the errors that a section ``Raises`` names: numpydoc leaves them bare."""
    is_there = False
    for number, line in enumerate(lines):
        if line.startswith(":"):
            is_there = line == ":Raises:"
        elif is_there and re.fullmatch(r"    (\w+(, )?)+", line):
            lines[number] = re.sub(r"\w+", r"`\g<0>`", line)


def read_page(app: Sphinx, page: str, source: list[str]) -> None:
    """Let links to Markdown outside of this folder lead to the file: it is no page of its own."""
    source[0] = re.sub(r"\]\(((?:\.\./)+(?:bench|data)/[^)]*\.md)", r"](path:\1", source[0])


def describe_fields(
    app: Sphinx, what: str, name: str, value: Any, options: Any, lines: list[str]
) -> None:
    """Name the fields of an error: those that its class sets."""
    if what != "exception" or not issubclass(value, NearsearchError | Warning):
        return
    tree = ast.parse(textwrap.dedent(inspect.getsource(value)))
    fields = [
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute)
        and isinstance(node.ctx, ast.Store)
        and ast.unparse(node.value) == "self"
    ]
    if fields:
        lines += ["", "Fields: " + ", ".join(f"``{field}``" for field in fields) + "."]


def setup(app: Sphinx) -> None:
    """Register what is above."""
    os.environ["COLUMNS"] = "94"  # of help texts
    os.environ["NO_COLOR"] = "1"
    app.add_directive("command-help", CommandHelp)
    app.connect("missing-reference", resolve)
    app.connect("source-read", read_page)
    app.connect("autodoc-process-docstring", describe_fields)
    app.connect("autodoc-process-docstring", link_errors, priority=900)  # after numpydoc
