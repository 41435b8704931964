"""The filter language: what matches, and how refusals read."""

import datetime as dt

import pyarrow as pa
import pytest

from nearsearch.errors import FilterSyntaxError, UnknownColumnError
from nearsearch.where import MAX_DEPTH, MAX_LENGTH, parse

NEW_YEAR = dt.datetime(2024, 1, 1)

# Row 2 misses every value.
TABLE = pa.table(
    {
        "row": [0, 1, 2],
        "source": ["NL", "DE", None],
        "country": pa.array(["NL", "DE", None]).dictionary_encode(),
        "width": pa.array([640, 320, None], pa.uint32()),
        "score": pa.array([0.1, 0.5, None], pa.float32()),
        "reviewed": [True, False, None],
        "labels": [["cat", "bobcat"], [], None],
        "item_id": pa.array([b"\x01" * 4, b"\x02" * 4, None], pa.binary(4)),
        "added_at": pa.array(
            [NEW_YEAR, NEW_YEAR.replace(year=2025), None], pa.timestamp("s", "UTC")
        ),
        "day": pa.array([NEW_YEAR.date(), NEW_YEAR.date().replace(day=2), None]),
        "local_ns": pa.array([NEW_YEAR, NEW_YEAR.replace(year=2025), None], pa.timestamp("ns")),
        "half": pa.array([0.5, 1.0, None], pa.float16()),
    }
)
COLUMNS = dict(zip(TABLE.schema.names, TABLE.schema.types, strict=True))


def rows(text: str) -> list[int]:
    return TABLE.filter(parse(text, COLUMNS))["row"].to_pylist()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('source == "NL"', [0]),
        ('"NL" == source', [0]),
        ('source > "DF"', [0]),
        ('country == "DE"', [1]),
        ('country in ["DE"]', [1]),
        ("width < 640", [1]),
        ("400 < width", [0]),
        ("300 < width < 400", [1]),
        ("width == 640.0", [0]),
        ("score == 0.1", [0]),
        ("score > -1", [0, 1]),
        ("reviewed", [0]),
        ("not reviewed", [1]),
        ("reviewed == False", [1]),
        ('"cat" in labels', [0]),
        ('"bob" in labels', []),
        ('"" in labels', []),
        ('"cat" not in labels', [1]),
        ("labels == None", [2]),
        ("labels in [None]", [2]),
        ('item_id == "01010101"', [0]),
        ('item_id in ("02020202", "03030303")', [1]),
        ('added_at < "2024-06-01"', [0]),
        ('added_at == "2024-01-01T01:00+01:00"', [0]),
        ('added_at > "2023-12-31T23:59:59.999999"', [0, 1]),
        ('local_ns in ["2024-01-01T00:00Z"]', [0]),
        ('day == "2024-01-02"', [1]),
        ('source == "NL" and width > 600 or width == 320', [0, 1]),
        ('source == "NL" and (width > 600 or width == 320)', [0]),
        ('  source == "NL"  # a remark\n', [0]),
    ],
)
def test_matches(text, expected):
    assert rows(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('source != "NL"', [1]),
        ('not source == "NL"', [1]),
        ('source not in ["NL"]', [1]),
        ("source in []", []),
        ("source not in []", [0, 1]),
        ('source != "NL" or source == None', [1, 2]),
        ("source is None", [2]),
        ("source is not None", [0, 1]),
        ("not source == None", [0, 1]),
        ('source in ["NL", None]', [0, 2]),
        ('source not in ["NL", None]', [1]),
        ('width > 9 or source == "NL"', [0, 1]),
        ('source == None or source == "NL"', [0, 2]),
    ],
)
def test_missing_values_match_only_when_asked_for(text, expected):
    assert rows(text) == expected


def test_a_label_is_matched_whole():
    table = pa.table({"labels": [["a", "b"], ["ab"], [""], [], ["", "a"], ["a,b"]]})
    columns = {"labels": table.schema.field("labels").type}

    def found(label):
        mask = table.append_column("i", pa.array(range(6)))
        return mask.filter(parse(f"{label!r} in labels", columns))["i"].to_pylist()

    assert found("a") == [0, 4]
    assert found("b") == [0]
    assert found("") == [2, 4]
    assert found("a,b") == [5]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "it is empty"),
        (" \n", "it is empty"),
        ("source", "column source (string) needs a comparison"),
        ("True", "a constant alone is not a condition"),
        ('source = "NL"', "invalid syntax at '= \"NL\"'"),
        ('source == "NL" AND reviewed', "invalid syntax at 'AND reviewed'"),
        ("source == country", "not with another column"),
        ('"a" == "b"', "needs a column on one side"),
        ('source.upper() == "NL"', "needs a column on one side"),
        ('__import__("os")', "Call is not part of the filter language"),
        ("[x for x in source]", "ListComp is not part of the filter language"),
        ("lambda: reviewed", "Lambda is not part of the filter language"),
        ("(width := 1)", "NamedExpr is not part of the filter language"),
        ("width == 10 ** 9", "'10 ** 9' at line 1, character 10: expected a constant"),
        ("width == -True", "expected a constant"),
        ('source == f"{1}"', "expected a constant"),
        ('source == b"NL"', "expected a constant"),
        ("source is 'NL'", "`is` goes with None only"),
        ("width < None", "None goes with == and != only"),
        ('source in "NL"', "`in` needs a list of constants"),
        ('"N" in source', "column source (string) holds no lists"),
        ('["NL"] in labels', "expected a constant"),
        ('"a\\x1fb" in labels', "no label contains the character U+001F"),
        ('labels == "cat"', "lists are asked with `in`"),
        ("half > 0.1", "its type allows == None and != None only"),
        ('"a\0"', "null"),
        ('"\ud800" == source', "surrogates not allowed"),
        (r'"\ud800" in labels', "surrogates not allowed"),
    ],
)
def test_refusals_say_why(text, reason):
    with pytest.raises(FilterSyntaxError) as caught:
        parse(text, COLUMNS)
    assert reason in str(caught.value)
    assert "write for instance" in str(caught.value)


@pytest.mark.parametrize(
    ("column", "kind", "constant"),
    [
        ("width", "uint32", '"abc"'),
        ("width", "uint32", "True"),
        ("width", "uint32", "1.5"),
        ("width", "uint32", "-1"),
        ("width", "uint32", "4294967296"),
        ("width", "uint32", "1e999"),
        ("width", "uint32", "0x" + "f" * 90),
        ("score", "float", '"abc"'),
        ("reviewed", "bool", "1"),
        ("source", "string", "1"),
        ("item_id", "fixed_size_binary[4]", '"0101"'),
        ("item_id", "fixed_size_binary[4]", '"xyz"'),
        ("added_at", "timestamp[s, tz=UTC]", '"yesterday"'),
        ("local_ns", "timestamp[ns]", '"3000-01-01"'),
    ],
)
@pytest.mark.parametrize("form", ["{} == {}", "{} in [{}]"])
def test_a_type_mismatch_names_column_type_and_constant(column, kind, constant, form):
    text = form.format(column, constant)
    where = f"{constant!r} at line 1, character {text.index(constant) + 1}: "
    with pytest.raises(FilterSyntaxError) as caught:
        parse(text, COLUMNS)
    assert f"{where}cannot be compared with column {column} ({kind})" in str(caught.value)


def test_positions_count_characters_not_bytes():
    with pytest.raises(FilterSyntaxError, match="line 2, character 19:"):
        parse('(reviewed or\nsource > "éé\u2028" or "é" == width)', COLUMNS)


def test_an_unknown_column_lists_the_known_ones():
    with pytest.raises(UnknownColumnError) as caught:
        parse('sauce == "NL"', COLUMNS)
    assert caught.value.column == "sauce"
    assert caught.value.columns == list(COLUMNS)


@pytest.mark.parametrize(
    "text",
    [
        "not " * 20_000 + "reviewed",
        "(" * 5_000 + "reviewed" + ")" * 5_000,
        "width == " + "-" * 90_000 + "1",
        "reviewed" + ".x" * 40_000,
        "reviewed" + "()" * 40_000,
        "reviewed" + "[0]" * 30_000,
        "not " * MAX_DEPTH + "reviewed",
        "width == " + "9" * 5_000,
        "width == 0x" + "f" * 9_000,
        "width" + " < 9" * 20_000,
        "reviewed or " * (MAX_LENGTH // 12) + "reviewed",
    ],
)
def test_hostile_text_is_refused_briefly(text):
    with pytest.raises(FilterSyntaxError) as caught:
        parse(text, COLUMNS)
    assert len(str(caught.value)) < 1000


def test_a_long_flat_filter_is_served():
    assert rows("not " * (MAX_DEPTH - 1) + "reviewed") == [1]
    assert rows(" or ".join(["width == 640"] * 6_000)) == [0]
    assert rows("0 < width" + " and 0 < width" * 6_000) == [0, 1]
    digests = ", ".join(f'"{n:08x}"' for n in range(7_000))
    assert rows(f'item_id in ["02020202", {digests}]') == [1]
