"""What an answer of the Hub means, and what to do. A token is never part of it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

from huggingface_hub import errors, get_token

from mmhelpers.data.problems import DataError

LOG_IN = "log in with `hf auth login` or set HF_TOKEN"
UNREACHED = ("ConnectError", "ConnectTimeout", "ReadTimeout")  # of httpx, whichever huggingface_hub has


def refusal(error: BaseException, what: str) -> str | None:
    """What an error means and what to do, where the Hub refuses or does not answer; None for any other error.

    Args:
        error: as a library raised it; what it was raised from counts too.
        what: was asked for, "data set" or "model".
    """
    status = getattr(getattr(error, "response", None), "status_code", None)
    if isinstance(error, errors.GatedRepoError) or "is a gated dataset" in str(error):
        return f"it is gated: ask for access on its page on the Hub, then {LOG_IN}"
    if isinstance(error, errors.RevisionNotFoundError):
        return "it has no such revision; write owner/name@branch, tag or commit"
    if isinstance(error, errors.RepositoryNotFoundError):
        return f"there is no such {what}, or it is private, or the token is wrong; check the id, or {LOG_IN}"
    if isinstance(error, errors.HFValidationError):
        return "it is not an id such as owner/name"
    if status in (401, 403):
        return f"the Hub refuses the token (status {status}); {LOG_IN}"
    if status == 429:
        return f"the Hub asks to slow down (status 429); wait some minutes, or {LOG_IN}"
    if isinstance(error, ConnectionError) or type(error).__name__ in UNREACHED:
        return f"the Hub cannot be reached ({type(error).__name__}); check the network, or HF_HUB_OFFLINE"
    return refusal(error.__cause__, what) if error.__cause__ else None


@contextmanager
def as_data_error(place: str) -> Iterator[None]:
    """Turn errors of the libraries into a DataError that says what to do."""
    try:
        yield
    except DataError:
        raise
    except Exception as error:
        said = next(iter(str(error).strip().splitlines()), "")
        for secret in filter(None, [get_token(), *re.findall(r"hf_\w{8,}", said)]):
            said = said.replace(secret, "hf_...")
        what = refusal(error, "data set") or f"{type(error).__name__}: {said}"
        raise DataError(place, [what]) from None  # the chain might show a request's headers
