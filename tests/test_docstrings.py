"""Docstrings say what the code takes and raises: every public name, parameter and error."""

import ast
import inspect
import re
import textwrap

import pytest

import nearsearch
from nearsearch import corpora, errors, synthetic
from nearsearch.exchange import frames, vpdq
from nearsearch.hashes import View


def of_module(module):
    """The public functions and classes that a module makes."""
    listed = getattr(module, "__all__", vars(module))
    for name, value in vars(module).items():
        if (
            name in listed
            and getattr(value, "__module__", None) == module.__name__
            and name[0] != "_"
        ):
            yield value


def public_objects():
    named = [getattr(nearsearch, name) for name in nearsearch.__all__ if name != "__version__"]
    found = [value for value in named if not inspect.ismodule(value)]
    for module in (errors, frames, vpdq, synthetic, corpora):
        found += of_module(module)
    return {f"{value.__module__}.{value.__qualname__}": value for value in [*found, View]}


CLASSES = {name: value for name, value in public_objects().items() if inspect.isclass(value)}


def routines():
    """Public functions, and public methods of public classes, by name."""
    found = {name: value for name, value in public_objects().items() if name not in CLASSES}
    for owner, cls in CLASSES.items():
        for name, value in vars(cls).items():
            function = getattr(value, "__func__", value)
            if name[0] != "_" and inspect.isfunction(function):
                found[f"{owner}.{name}"] = function
    return found


ROUTINES = routines()


def properties():
    for owner, cls in CLASSES.items():
        for name, value in vars(cls).items():
            if name[0] != "_" and isinstance(value, property):
                yield f"{owner}.{name}", value


def says(docstring, word):
    return re.search(rf"(?<!\w){re.escape(word)}(?!\w)", docstring or "") is not None


@pytest.mark.parametrize("name", CLASSES)
def test_classes_say_what_they_are_and_what_their_fields_are(name):
    cls = CLASSES[name]
    assert cls.__dict__.get("__doc__"), name
    tree = ast.parse(textwrap.dedent(inspect.getsource(cls))).body[0]
    described = {
        ast.unparse(field.target)
        for field, after in zip(tree.body, tree.body[1:], strict=False)
        if isinstance(field, ast.AnnAssign)
        and isinstance(after, ast.Expr)
        and isinstance(after.value, ast.Constant)
    }
    for field in inspect.get_annotations(cls):
        assert field in described or says(cls.__doc__, field), f"{name}.{field}"


@pytest.mark.parametrize(("name", "value"), list(properties()))
def test_properties_say_what_they_are(name, value):
    assert value.__doc__, name


@pytest.mark.parametrize("name", ROUTINES)
def test_routines_say_what_they_take(name):
    routine = ROUTINES[name]
    assert routine.__doc__, name
    for parameter in inspect.signature(routine).parameters.values():
        if parameter.name not in ("self", "cls"):
            assert says(routine.__doc__, parameter.name), f"{name}: {parameter.name}"
        annotation = str(parameter.annotation)
        if "NDArray" in annotation and "as_records" not in name:
            assert re.search(r"\bu?int\d*\b|As for|dtype", routine.__doc__), f"{name}: dtype"
            assert re.search(r"\(\w[^)]*\)|As for", routine.__doc__), f"{name}: shape"


def raised_in(function):
    """The public errors that the code of a function raises by itself."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    for node in ast.walk(tree):
        if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call):
            error = getattr(errors, ast.unparse(node.exc.func), None)
            if error is not None:
                yield error


@pytest.mark.parametrize("name", ROUTINES)
def test_routines_say_what_they_raise(name):
    routine = ROUTINES[name]
    for error in raised_in(routine):
        bases = [base.__name__ for base in error.__mro__ if issubclass(base, Exception)]
        own = bases[: bases.index("NearsearchError")]
        assert any(says(routine.__doc__, base) for base in own), f"{name}: {error.__name__}"


def test_errors_that_docstrings_name_exist():
    for name, routine in ROUTINES.items():
        for error in re.findall(r"\b\w+Error\b", routine.__doc__ or ""):
            assert hasattr(errors, error) or error == "OSError", f"{name}: {error}"


def test_the_fields_of_errors_are_what_they_were_made_with():
    """But for `remedy`, which is told and not kept."""
    for name in errors.__dict__:
        cls = getattr(errors, name)
        if not (inspect.isclass(cls) and cls.__module__ == errors.__name__):
            continue
        source = inspect.getsource(cls)
        if "__init__" in vars(cls):
            for parameter in inspect.signature(cls).parameters:
                kept = re.search(rf"self\.{parameter}\b", source)
                assert kept or parameter == "remedy" or name == "NotMediaError", (name, parameter)
