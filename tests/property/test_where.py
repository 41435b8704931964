"""Random filters against an oracle that reads them row by row, missing values included."""

import operator
from functools import reduce

import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from nearsearch.errors import UsageError
from nearsearch.where import parse

WIDTHS = [0, 1, 2, 3, None]
NAMES = ["", "a", "b", "ab", None]
LABELS = [[], [""], ["a"], ["b", "a"], ["ab"], None]
FLAGS = [True, False, None]

SCHEMA = pa.schema(
    {"width": pa.int32(), "name": pa.string(), "labels": pa.list_(pa.string()), "flag": pa.bool_()}
)
COLUMNS = dict(zip(SCHEMA.names, SCHEMA.types, strict=True))
TABLE = pa.Table.from_pylist(
    [
        {"width": width, "name": name, "labels": labels, "flag": flag}
        for width in WIDTHS
        for name in NAMES
        for labels in LABELS
        for flag in FLAGS
    ],
    SCHEMA,
)
OPERATORS = {
    "==": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}


def negate(truth):
    return None if truth is None else not truth


def both(left, right):
    if left is False or right is False:
        return False
    return None if left is None or right is None else True


def either(left, right):
    return negate(both(negate(left), negate(right)))


def unless_missing(value, test):
    return None if value is None else test(value)


# A filter is drawn as a pair: its text, and a function of a row that says True, False or None.


@st.composite
def comparisons(draw):
    column, values = draw(st.sampled_from([("width", WIDTHS), ("name", NAMES)]))
    constant = draw(st.sampled_from([value for value in values if value is not None]))
    sign = draw(st.sampled_from(list(OPERATORS)))
    compare = OPERATORS[sign]
    if draw(st.booleans()):
        text = f"{column} {sign} {constant!r}"
        return text, lambda row: unless_missing(row[column], lambda value: compare(value, constant))
    text = f"{constant!r} {sign} {column}"
    return text, lambda row: unless_missing(row[column], lambda value: compare(constant, value))


@st.composite
def chains(draw):
    low, high = draw(st.integers(0, 3)), draw(st.integers(0, 3))
    first, second = draw(st.sampled_from(list(OPERATORS))), draw(st.sampled_from(list(OPERATORS)))
    return (
        f"{low} {first} width {second} {high}",
        lambda row: unless_missing(
            row["width"],
            lambda width: OPERATORS[first](low, width) and OPERATORS[second](width, high),
        ),
    )


@st.composite
def memberships(draw):
    column, values = draw(st.sampled_from([("width", WIDTHS), ("name", NAMES)]))
    constants = draw(st.lists(st.sampled_from(values), max_size=4))
    word, wanted = draw(st.sampled_from([("in", True), ("not in", False)]))

    def truth(row):
        if row[column] is None and None not in constants:
            return None
        return (row[column] in constants) == wanted

    return f"{column} {word} {constants!r}", truth


@st.composite
def label_tests(draw):
    label = draw(st.sampled_from(["", "a", "b", "ab", "c"]))
    word, wanted = draw(st.sampled_from([("in", True), ("not in", False)]))
    return (
        f"{label!r} {word} labels",
        lambda row: unless_missing(row["labels"], lambda labels: (label in labels) == wanted),
    )


@st.composite
def null_tests(draw):
    column = draw(st.sampled_from(SCHEMA.names))
    sign, wanted = draw(st.sampled_from([("== None", True), ("!= None", False), ("is None", True)]))
    return f"{column} {sign}", lambda row: (row[column] is None) == wanted


def compound(filters):
    joined = st.tuples(
        st.sampled_from([(" and ", both), (" or ", either)]),
        st.lists(filters, min_size=2, max_size=4),
    )
    return st.one_of(
        filters.map(lambda f: (f"not ({f[0]})", lambda row: negate(f[1](row)))),
        joined.map(
            lambda drawn: (
                drawn[0][0].join(f"({text})" for text, _ in drawn[1]),
                lambda row: reduce(drawn[0][1], (truth(row) for _, truth in drawn[1])),
            )
        ),
    )


FILTERS = st.recursive(
    st.one_of(
        comparisons(),
        chains(),
        memberships(),
        label_tests(),
        null_tests(),
        st.just(("flag", lambda row: row["flag"])),
    ),
    compound,
    max_leaves=8,
)


@given(FILTERS)
def test_matches_the_oracle(drawn):
    text, truth = drawn
    expected = [row for row in TABLE.to_pylist() if truth(row) is True]
    assert TABLE.filter(parse(text, COLUMNS)).to_pylist() == expected


WORDS = [*COLUMNS, *OPERATORS, "and", "or", "not", "in", "is", "None", "(", ")", "[", "]", ","]
CONSTANTS = [
    "1",
    "-2",
    "0.5",
    "1e999",
    "'a'",
    "'\\ud800'",
    "True",
    "lambda:",
    ".",
    "f''",
    "\n",
    "é",
]


@given(
    st.lists(st.sampled_from(WORDS + CONSTANTS), max_size=12).map(" ".join) | st.text(max_size=30)
)
def test_any_text_is_served_or_refused_in_words(text):
    try:
        expression = parse(text, COLUMNS)
    except UsageError:
        return
    TABLE.filter(expression)  # what parses also runs
