from __future__ import annotations

import copy
import pickle

import pytest

from imlctl import errors
from imlctl.errors import Exit, ImlctlError, InputError


def subclasses(kind: type[ImlctlError]) -> list[type[ImlctlError]]:
    return [kind, *(x for each in kind.__subclasses__() for x in subclasses(each))]


ALL = subclasses(ImlctlError)


@pytest.mark.parametrize(
    ("source", "remedy", "text"),
    [
        ("", "", "is wrong"),
        ("a.jpg", "", "a.jpg: is wrong"),
        ("", "Try again.", "is wrong. Try again."),
        ("a.jpg", "Try again.", "a.jpg: is wrong. Try again."),
    ],
)
def test_text_names_source_fault_and_remedy(source: str, remedy: str, text: str) -> None:
    error = ImlctlError("is wrong", source=source, remedy=remedy)
    assert str(error) == text
    assert (error.what, error.source, error.remedy) == ("is wrong", source, remedy)


@pytest.mark.parametrize("kind", ALL)
def test_errors_survive_pickling_and_copying(kind: type[ImlctlError]) -> None:
    """A worker process hands its error over pickled."""
    error = kind("is wrong", source="a.jpg", remedy="Try again.")
    for twin in (pickle.loads(pickle.dumps(error)), copy.copy(error)):  # noqa: S301 - our own
        assert type(twin) is kind
        assert str(twin) == str(error)
        assert (twin.what, twin.source, twin.remedy) == ("is wrong", "a.jpg", "Try again.")


@pytest.mark.parametrize("kind", ALL)
def test_exit_codes_tell_one_bad_picture_from_a_bad_run(kind: type[ImlctlError]) -> None:
    expected = Exit.SOME_FAILED if issubclass(kind, InputError) else Exit.USAGE
    assert kind.exit_code == expected


def test_every_error_is_documented_and_in_the_tree() -> None:
    named = {x for x in vars(errors).values() if isinstance(x, type) and issubclass(x, Exception)}
    assert named == set(ALL)
    assert all(kind.__doc__ for kind in ALL)


def test_exit_code_table() -> None:
    codes = {code.name: int(code) for code in Exit}
    assert codes == {
        "OK": 0,
        "FOUND": 1,
        "USAGE": 2,
        "SOME_FAILED": 3,
        "INTERNAL": 70,
        "INTERRUPTED": 130,
    }


def test_details_stand_on_lines_of_their_own() -> None:
    error = ImlctlError("two things are missing", remedy="Get them.", details=("one", "two"))
    assert error.message == "two things are missing. Get them."
    assert str(error) == "two things are missing. Get them.\n  one\n  two"
