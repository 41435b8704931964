r"""The filter language of a search: an expression over the columns of members, for Arrow.

This module owns the grammar, a small part of Python's: text is parsed by `ast` and translated node
by node, so nothing outside the whitelist below can run. It refuses to know which columns exist or
to look at any row.

Grammar
-------
- Comparison of a column with a constant, on either side, also chained: ``width >= 640``,
  ``1 < page < 5``. Operators ``== != < <= > >=``.
- ``source in ["NL", "DE"]``, ``source not in ["NL"]``.
- ``"urgent" in labels``: some label of the list *is* this text (part of a label is no match).
- ``source == None`` and ``source != None`` (or ``is``, ``is not``): no value, some value.
- A column of type bool is a condition of its own: ``not reviewed``.
- ``and``, ``or``, ``not``, parentheses.

Constants are strings, numbers, ``True``, ``False`` and ``None``. Strings follow Python's rules, so
a Windows path is ``r"C:\new"`` with the ``r``. For a timestamp or date, write ISO 8601 in a string
(UTC if it names no offset); for a binary column (item_id, digests), hexadecimal.

Missing values
--------------
A comparison with a missing value is neither true nor false but unknown, as in SQL, and only what is
true matches. ``source != "NL"``, ``source not in ["NL"]`` and ``not source == "NL"`` therefore all
pass over members without a source; add ``or source == None`` to find them too. ``and`` and ``or``
still decide where one side suffices: ``width > 9 or source == "NL"`` is true for a wide member
without a source. ``== None`` and ``!= None`` are never unknown, and None in a list of constants
stands for ``== None``.
"""

from __future__ import annotations

import ast
import operator
import re
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime
from typing import TYPE_CHECKING, Any, Final

import pyarrow as pa
import pyarrow.compute as pc

from nearsearch.errors import FilterSyntaxError, UnknownColumnError, UsageError
from nearsearch.store.schema import LABEL_SEPARATOR

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

MAX_LENGTH: Final = 100_000
"""Longest filter in characters: room for a list of a thousand SHA-256 digests."""

MAX_DEPTH: Final = 100
"""Deepest nesting; far below what would exhaust Python's stack here or Arrow's when it filters."""

_COMPARISONS: Final[dict[type[ast.cmpop], Callable[[Any, Any], Any]]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
}
_MIRRORED: Final[dict[type[ast.cmpop], type[ast.cmpop]]] = {
    ast.Lt: ast.Gt,
    ast.LtE: ast.GtE,
    ast.Gt: ast.Lt,
    ast.GtE: ast.LtE,
}
_NULL_TESTS: Final[dict[type[ast.cmpop], bool]] = {
    ast.Eq: True,
    ast.Is: True,
    ast.NotEq: False,
    ast.IsNot: False,
}


_WRITTEN_AS_STRINGS: Final = (
    pa.types.is_string,
    pa.types.is_large_string,
    pa.types.is_timestamp,
    pa.types.is_date32,
    pa.types.is_binary,
    pa.types.is_large_binary,
    pa.types.is_fixed_size_binary,
)


def checked(
    where: pc.Expression | str | None, columns: Mapping[str, pa.DataType]
) -> pc.Expression | None:
    """Return a filter as an Arrow expression that can be used on tables with these columns.

    Raises
    ------
    FilterSyntaxError, UnknownColumnError
        As `parse`; also an expression can name an unknown column.
    UsageError
        Neither text nor an expression, or one that cannot be evaluated.
    """
    if where is None:
        return None
    if isinstance(where, str):
        where = parse(where, columns)
    if not isinstance(where, pc.Expression):
        raise UsageError(
            f"where: expected text or a pyarrow.compute.Expression, got {type(where).__name__}"
        )
    try:
        pa.schema(list(columns.items())).empty_table().filter(where)
    except (pa.ArrowException, TypeError) as error:
        unknown = re.match(r"No match for FieldRef.Name\((.*?)\)", str(error))
        if unknown:
            raise UnknownColumnError(unknown[1], list(columns)) from error
        raise UsageError(f"where: {error}") from error
    return where


def parse(text: str, columns: Mapping[str, pa.DataType]) -> pc.Expression:
    """Translate the filter `text` into an Arrow expression over `columns`.

    The result goes to `pyarrow.Table.filter` or a dataset scan; rows where it is true match. The
    module's docstring holds the grammar and what a missing value does.

    Parameters
    ----------
    text
        The filter, at most `MAX_LENGTH` characters. May come from anyone: it is never executed.
    columns
        Arrow type of every column a filter may name.

    Raises
    ------
    FilterSyntaxError
        Not in the grammar, or a constant that the type of its column cannot be compared with.
    UnknownColumnError
        A name that is not in `columns`.

    Examples
    --------
    >>> table = pa.table({"source": ["NL", "DE", None], "width": [640, 320, 1024]})
    >>> types = dict(zip(table.schema.names, table.schema.types))
    >>> table.filter(parse('source == "NL" or width > 1000', types))["width"].to_pylist()
    [640, 1024]
    """
    text = text.strip()
    if not text:
        raise FilterSyntaxError(text, "it is empty")
    if len(text) > MAX_LENGTH:
        reason = f"it has {len(text):,} characters, the limit is {MAX_LENGTH:,}"
        raise FilterSyntaxError(_shorten(text), reason)
    try:
        tree = ast.parse(text, mode="eval")
    except SyntaxError as error:
        rest = (error.text or "")[max(0, (error.offset or 1) - 1) :]
        where = f" at {_shorten(rest.rstrip())!r}" if rest else ""
        raise FilterSyntaxError(_shorten(text), f"{error.msg}{where}") from error
    except (RecursionError, MemoryError) as error:  # how CPython's parser reports deep nesting
        raise FilterSyntaxError(_shorten(text), "it is nested too deeply") from error
    except ValueError as error:  # null characters, lone surrogates, numbers of 4300 digits
        raise FilterSyntaxError(_shorten(text), str(error)) from error
    return _Translator(text, columns).condition(tree.body, MAX_DEPTH)


@dataclass(frozen=True, slots=True)
class _Column:
    """A column as an operand: the expression that reads it, and the type it then has."""

    name: str
    type: pa.DataType
    field: pc.Expression


@dataclass(frozen=True, slots=True)
class _Translator:
    """One pass over the syntax tree of `text`."""

    text: str
    columns: Mapping[str, pa.DataType]

    def condition(self, node: ast.expr, depth: int) -> pc.Expression:
        """Translate a node that must be true or false; `depth` more levels are allowed."""
        if depth == 0:
            raise self.error(node, f"it is nested more than {MAX_DEPTH} levels deep")
        match node:
            case ast.BoolOp(op=op, values=values):
                combine = operator.and_ if isinstance(op, ast.And) else operator.or_
                return _balanced(combine, [self.condition(value, depth - 1) for value in values])
            case ast.UnaryOp(op=ast.Not(), operand=operand):
                return ~self.condition(operand, depth - 1)
            case ast.Compare(left=left, ops=ops, comparators=rights):
                lefts = [left, *rights[:-1]]
                links = [self.comparison(*link) for link in zip(lefts, ops, rights, strict=True)]
                return _balanced(operator.and_, links)
            case ast.Name():
                column = self.column(node)
                if not pa.types.is_boolean(column.type):
                    raise self.error(
                        node, f"column {column.name} ({column.type}) needs a comparison"
                    )
                return column.field
            case ast.Constant():
                raise self.error(node, "a constant alone is not a condition")
            case _:
                raise self.error(node, f"{type(node).__name__} is not part of the filter language")

    def comparison(self, left: ast.expr, op: ast.cmpop, right: ast.expr) -> pc.Expression:
        """Translate one comparison of a column with a constant or a list of constants."""
        if isinstance(op, ast.In | ast.NotIn):
            found = self.membership(left, right)
            return found if isinstance(op, ast.In) else ~found
        kind = type(op)
        if not isinstance(left, ast.Name):
            left, right, kind = right, left, _MIRRORED.get(kind, kind)
        if not isinstance(left, ast.Name):
            raise self.error(left, "a comparison needs a column on one side")
        if isinstance(right, ast.Name):
            raise self.error(right, "a column is compared with a constant, not with another column")
        column, value = self.column(left), self.constant(right)
        if value is None and kind in _NULL_TESTS:
            return column.field.is_null() if _NULL_TESTS[kind] else column.field.is_valid()
        if value is None or kind not in _COMPARISONS:
            raise self.error(right, "None goes with == and != only, and `is` goes with None only")
        return _COMPARISONS[kind](column.field, self.scalar(column, value, right))

    def membership(self, left: ast.expr, right: ast.expr) -> pc.Expression:
        """Translate ``column in [constants]`` or ``"label" in column``."""
        if isinstance(right, ast.Name):
            return self.has_label(self.column(right), left)
        if not isinstance(right, ast.List | ast.Tuple | ast.Set):
            raise self.error(
                right, "`in` needs a list of constants or a column of lists on its right"
            )
        if not isinstance(left, ast.Name):
            raise self.error(left, "`in` with a list of constants needs a column on its left")
        column = self.column(left)
        values = [(node, self.constant(node)) for node in right.elts]
        scalars = [self.scalar(column, value, node) for node, value in values if value is not None]
        one_of = (
            column.field.isin(pa.array(scalars, scalars[0].type)) if scalars else pc.scalar(False)
        )
        # is_in says false for a missing value, which `not` would turn into a match.
        unknown = pa.scalar(None, pa.bool_())
        found = pc.if_else(column.field.is_valid(), one_of, unknown)
        return column.field.is_null() | found if len(scalars) < len(values) else found

    def has_label(self, column: _Column, node: ast.expr) -> pc.Expression:
        """Translate ``"label" in column``."""
        if not _is_list_of_strings(column.type):
            raise self.error(
                node, f"column {column.name} ({column.type}) holds no lists to look `in`"
            )
        labels = replace(column, type=column.type.value_type)
        label = self.scalar(labels, self.constant(node), node).as_py()
        if LABEL_SEPARATOR in label:
            raise self.error(node, "no label contains the character U+001F")
        # Between separators every label is fenced: a match is a whole label.
        edge, separator = pc.scalar(""), pc.scalar(LABEL_SEPARATOR)
        joined = pc.binary_join(column.field.cast(pa.list_(pa.string())), separator)
        fenced = pc.binary_join_element_wise(edge, joined, edge, separator)
        found = pc.match_substring(fenced, f"{LABEL_SEPARATOR}{label}{LABEL_SEPARATOR}")
        # [] and [""] join to the same text; only the second holds the label "".
        return found if label else found & (pc.list_value_length(column.field) > 0)

    def column(self, node: ast.Name) -> _Column:
        """Look up a column; a dictionary-encoded one reads as its values."""
        if node.id not in self.columns:
            raise UnknownColumnError(node.id, list(self.columns))
        kind, field = self.columns[node.id], pc.field(node.id)
        if pa.types.is_dictionary(kind):
            kind = kind.value_type
            field = field.cast(kind)
        return _Column(node.id, kind, field)

    def constant(self, node: ast.expr) -> str | int | float | bool | None:
        """Read a constant, with a minus sign or not."""
        match node:
            case ast.Constant(value=str() | int() | float() | None as value):
                return value
            case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int() | float() as value)):
                if not isinstance(value, bool):
                    return -value
        raise self.error(node, "expected a constant: a string, a number, True, False or None")

    def scalar(self, column: _Column, value: Any, node: ast.expr) -> pa.Scalar:
        """Convert a constant to what the column's type is compared with."""
        try:
            return _to_scalar(value, column.type)
        except (ValueError, OverflowError, TypeError, pa.ArrowException) as error:
            reason = f"cannot be compared with column {column.name} ({column.type}): {error}"
            raise self.error(node, reason) from error

    def error(self, node: ast.expr, reason: str) -> FilterSyntaxError:
        """Return the refusal of `node`, quoted with the line and character where it starts."""
        # Line breaks as Python's parser sees them: str.splitlines knows more kinds.
        lines = self.text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
        before = lines[node.lineno - 1].encode()[: node.col_offset]
        character = len(before.decode()) + 1
        segment = _shorten(ast.get_source_segment(self.text, node) or "")
        where = f"{segment!r} at line {node.lineno}, character {character}"
        return FilterSyntaxError(_shorten(self.text), f"{where}: {reason}")


def _shorten(text: str) -> str:
    """Keep messages readable when the filter is a screenful, or hostile."""
    return text if len(text) <= 200 else f"{text[:200]}..."


def _balanced(combine: Callable[[Any, Any], Any], terms: Sequence[Any]) -> Any:
    """Combine `terms` as a balanced tree.

    Arrow recurses over the expression: a chain of ten thousand `or` would overflow its stack, a
    tree of fourteen levels does not.
    """
    if len(terms) == 1:
        return terms[0]
    half = len(terms) // 2
    return combine(_balanced(combine, terms[:half]), _balanced(combine, terms[half:]))


def _is_list_of_strings(kind: pa.DataType) -> bool:
    if not (pa.types.is_list(kind) or pa.types.is_large_list(kind)):
        return False
    return bool(pa.types.is_string(kind.value_type) or pa.types.is_large_string(kind.value_type))


def _to_scalar(value: Any, kind: pa.DataType) -> pa.Scalar:
    """Convert `value` for a column of type `kind`; what does not fit raises, in words."""
    if pa.types.is_boolean(kind):
        if isinstance(value, bool):
            return pa.scalar(value)
        raise TypeError("write True or False")
    is_float = pa.types.is_float32(kind) or pa.types.is_float64(kind)  # Arrow compares no float16
    if pa.types.is_integer(kind) or is_float:
        if isinstance(value, str | bool):
            raise TypeError("it is not a number")
        if is_float:
            return pa.scalar(float(value), kind)
        if value != int(value):  # infinity raises OverflowError
            raise ValueError("it is not a whole number")
        return pa.scalar(int(value), kind)
    if _is_list_of_strings(kind):
        raise TypeError('lists are asked with `in`, as in "urgent" in labels')
    if not any(holds(kind) for holds in _WRITTEN_AS_STRINGS):
        raise TypeError("its type allows == None and != None only")
    if not isinstance(value, str):
        raise TypeError("it is not a string")
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return pa.scalar(value, kind)
    if pa.types.is_timestamp(kind):
        return _timestamp(value, kind)
    if pa.types.is_date32(kind):
        return pa.scalar(date.fromisoformat(value), kind)
    binary = bytes.fromhex(value)
    if pa.types.is_fixed_size_binary(kind) and len(binary) != kind.byte_width:
        raise ValueError(f"expected {2 * kind.byte_width} hex digits")
    return pa.scalar(binary, kind)


def _timestamp(value: str, kind: pa.DataType) -> pa.Scalar:
    moment = datetime.fromisoformat(value)
    moment = moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    if kind.tz is None:
        moment = moment.replace(tzinfo=None)
    # Microseconds, datetime's own unit: rounding to a column of seconds would move the bound.
    scalar = pa.scalar(moment, pa.timestamp("us", kind.tz))
    return scalar.cast(kind) if kind.unit == "ns" else scalar
