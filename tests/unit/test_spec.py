import pytest

from nearsearch.errors import SpecMismatchError, UnknownSpecError
from nearsearch.spec import Spec, check_computable, get_spec, spec_names


@pytest.mark.parametrize(
    ("name", "algorithm", "bits", "radius"),
    [
        ("pdq", "pdq", 256, 31),
        ("pdq-256", "pdq", 256, 31),
        ("phash", "phash", 64, 8),
        ("phash-256", "phash", 256, 32),
        ("whash-1024", "whash", 1024, 64),
    ],
)
def test_names(name, algorithm, bits, radius):
    spec = get_spec(name)
    assert (spec.algorithm, spec.bits, spec.default_radius) == (algorithm, bits, radius)
    assert spec.code_bytes * 8 == bits
    assert get_spec(spec.name) == spec
    assert get_spec(spec) is spec


def test_every_listed_name_is_known():
    assert [get_spec(name).name for name in spec_names()] == spec_names()
    assert spec_names()[0] == "pdq"


@pytest.mark.parametrize("name", ["", "pdq-64", "md5", "phash-65", "phash-x", "phash--64", "PDQ"])
def test_unknown_names_list_the_known(name):
    with pytest.raises(UnknownSpecError, match="this version knows: pdq, wdct, phash"):
        get_spec(name)


def test_spec_of_a_later_version_is_named_but_not_computed():
    later = Spec("wonderhash", 512, 3, "full")
    assert later.name == "wonderhash-512"
    with pytest.raises(UnknownSpecError):
        check_computable(later, "x.ns")
    with pytest.raises(SpecMismatchError, match=r"x.ns: expected spec pdq \(version 2"):
        check_computable(Spec("pdq", 256, 2, "luma-2048"), "x.ns")
