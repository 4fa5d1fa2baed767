"""Checks for the exercises: they say what is wrong, and never stop a notebook.

In a notebook an exercise is four cells: a stub that raises NotImplementedError, a check, a folded solution
(tag "solution", `"jupyter": {"source_hidden": true}`) that defines the function again, and the check again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np


def check(name: str, answer: Callable[..., Any], cases: Sequence[tuple[tuple, Any, str]]) -> None:
    """Call the learner's function on every case and print "OK", or the first thing that is wrong.

    Args:
        answer: the function; for a value `lambda: value`, where None and ... stand for "not solved yet".
        cases: (arguments, expected, hint); `expected` is a value (floats within 1e-4, arrays elementwise),
            or a function that says whether one is right.
    """
    for arguments, expected, hint in cases:
        call = f"{getattr(answer, '__name__', 'answer')}({', '.join(map(_short, arguments))})"
        call = "your value" if "<lambda>" in call else call
        judge = expected if callable(expected) else lambda result, wanted=expected: _equal(result, wanted)
        try:
            result = answer(*arguments)
            right = result is not None and bool(judge(result))
        except NotImplementedError as task:
            return print(f"{name}: not solved yet. {task} (A solution is folded below.)")
        except Exception as error:  # the learner's code: whatever it raises is for the learner to read
            return print(f"{name}: not yet. {call} raised {type(error).__name__}: {error}. Hint: {hint}")
        if result is ... or (result is None and call == "your value"):
            return print(f"{name}: not solved yet. (A solution is folded below.)")
        if not right:
            wanted = "" if callable(expected) else f", expected {_short(expected)}"
            return print(f"{name}: not yet. {call} gave {_short(result)}{wanted}. Hint: {hint}")
    print(f"{name}: OK")


def _equal(result: Any, expected: Any) -> bool:
    try:
        return bool(np.shape(result) == np.shape(expected) and np.allclose(result, expected, atol=1e-4))
    except (TypeError, ValueError):  # text, sets, dicts, ragged lists
        return bool(result == expected)


def _short(value: Any) -> str:
    text = " ".join(repr(value).split())
    return text if len(text) <= 60 else f"{text[:57]}..."
