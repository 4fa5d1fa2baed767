from __future__ import annotations

import numpy as np
import pytest

from mmhelpers.course import exercises

CASES = [((1, 2), 3.0, "add both"), ((0, 0), lambda result: result == 0, "nothing comes of nothing")]


def stub(a, b):
    raise NotImplementedError("the sum of a and b")


def said(capsys, answer, cases=CASES) -> str:
    assert exercises.check("Exercise 1", answer, cases) is None
    return capsys.readouterr().out.strip()


def test_a_stub_is_not_solved_yet(capsys):
    expected = "Exercise 1: not solved yet. the sum of a and b (A solution is folded below.)"
    assert said(capsys, stub) == expected
    assert said(capsys, lambda: None, [((), 3, "h")]).startswith("Exercise 1: not solved yet.")
    assert said(capsys, lambda: ..., [((), lambda margin: margin > 0, "h")]).count("not yet") == 1


def test_a_right_answer(capsys):
    assert said(capsys, lambda a, b: a + b) == "Exercise 1: OK"


def test_a_wrong_answer_says_what_and_why(capsys):
    def minus(a, b):
        return a - b

    expected = "Exercise 1: not yet. minus(1, 2) gave -1, expected 3.0. Hint: add both"
    assert said(capsys, minus) == expected

    def forgot(a, b):
        a + b

    assert "forgot(1, 2) gave None, expected 3.0" in said(capsys, forgot)

    def off(a, b):
        return a + b if a else 7

    assert said(capsys, off).endswith("off(0, 0) gave 7. Hint: nothing comes of nothing")


def test_an_error_is_shown_and_does_not_stop(capsys):
    def typo(a, b):
        return a + c  # noqa: F821

    assert "typo(1, 2) raised NameError: name 'c' is not defined. Hint: add both" in said(capsys, typo)


@pytest.mark.parametrize(
    ("result", "expected", "right"),
    [
        (0.33333, 1 / 3, True),
        (np.eye(2), [[1, 0], [0, 1]], True),
        (np.eye(3), 1.0, False),
        (["a", "b"], ["a", "b"], True),
        ("text", "test", False),
        ({"a", "b"}, {"b", "a"}, True),
        ([[1], [1, 2]], [[1], [1, 2]], True),
        ("three", 3.0, False),
    ],
)
def test_results_are_compared_as_a_person_would(capsys, result, expected, right):
    assert said(capsys, lambda: result, [((), expected, "look")]).endswith("OK") == right


def test_long_arguments_are_cut(capsys):
    message = said(capsys, len, [((list(range(99)),), 1, "count again")])
    assert "..., 1" not in message and "...) gave 99" in message and len(message) < 150
