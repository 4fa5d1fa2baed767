from __future__ import annotations

import numpy as np
import pytest

from mmhelpers.course import exercises

CASES = [((1, 2), 3.0, "add both"), ((0, 0), lambda result: result == 0, "nothing comes of nothing")]


def said(capsys: pytest.CaptureFixture, answer, cases=CASES) -> str:
    assert exercises.check("Exercise 1", answer, cases) is None
    return capsys.readouterr().out.strip()


def stub(a, b):
    raise NotImplementedError("the sum of a and b")


def minus(a, b):
    return a - b


def forgot(a, b):
    a + b


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (lambda a, b: a + b, "OK"),
        (stub, "not solved yet. the sum of a and b (A solution is folded below.)"),
        (minus, "not yet. minus(1, 2) gave -1, expected 3.0. Hint: add both"),
        (forgot, "not yet. forgot(1, 2) gave None, expected 3.0. Hint: add both"),
    ],
)
def test_an_answer_is_judged_in_a_sentence(capsys, answer, words):
    assert said(capsys, answer) == f"Exercise 1: {words}"


@pytest.mark.parametrize(
    ("result", "expected", "verdict"),
    [
        (0.33333, 1 / 3, "OK"),
        (np.eye(2), [[1, 0], [0, 1]], "OK"),
        ("text", "test", "not yet"),
        ([[1], [1, 2]], [[1], [1, 2]], "OK"),
        (None, 3.0, "not solved yet"),
        (..., lambda margin: margin > 0, "not yet"),
    ],
)
def test_values_are_compared_as_a_person_would(capsys, result, expected, verdict):
    assert said(capsys, lambda: result, [((), expected, "look")]).startswith(f"Exercise 1: {verdict}")
