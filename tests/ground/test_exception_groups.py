"""Single exceptions, without the groups around them."""

import pytest

from trioserf.exception_groups import leaf_exceptions, single_exception, unwrap_single_exception


def test_single_exception_is_unwrapped_at_any_depth() -> None:
    error = KeyError("a")
    with pytest.raises(KeyError) as caught, unwrap_single_exception():
        raise ExceptionGroup("", [ExceptionGroup("", [error])])
    assert caught.value is error is single_exception(error)


def test_several_exceptions_stay_a_group() -> None:
    group = ExceptionGroup("", [KeyError("a"), ValueError("b")])
    with pytest.raises(ExceptionGroup) as caught, unwrap_single_exception():
        raise group
    assert caught.value is group


def test_exception_of_another_type_stays_in_its_group() -> None:
    with pytest.RaisesGroup(ValueError), unwrap_single_exception(KeyError):
        raise ExceptionGroup("", [ValueError("b")])


def test_leaf_exceptions_are_found_at_any_depth() -> None:
    one, other = KeyError("a"), ValueError("b")
    assert leaf_exceptions(one) == [one]
    assert leaf_exceptions(ExceptionGroup("", [one, ExceptionGroup("", [other])])) == [one, other]
