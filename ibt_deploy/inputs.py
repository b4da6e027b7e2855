"""What a file holds, item by item: recordings, stays, and refusals in place of what cannot be read."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from ibt_deploy.errors import InputError, MissingExtra, UnsupportedFormat
from ibt_deploy.files import AnyFile
from ibt_deploy.predictions import Refusal
from ibt_deploy.printable import one_line
from ibt_deploy.readers import read_each
from ibt_deploy.records import Recording, Stay

if TYPE_CHECKING:
    from ibt_deploy.bundle import Bundle


def items_of(file: AnyFile) -> Iterator[Recording | Stay | Refusal]:
    """Everything that a file holds.

    A table of many patients gives one item for each of them, so that one bad patient costs one refusal. A
    file whose reader needs a package that is not installed is refused too (``missing_extra``).
    """
    try:
        for answer in read_each(file):
            yield refusal(str(file), answer) if isinstance(answer, InputError) else answer
    except InputError as error:
        yield refusal(str(file), error.at(str(file)))
    except MissingExtra as error:
        yield refusal(str(file), UnsupportedFormat(str(error), where=str(file), code="missing_extra"))


def wrong_task(item: Recording | Stay, bundle: Bundle) -> UnsupportedFormat:
    """The error for an item that the model of ``bundle`` is not made for."""
    found = "an ECG" if isinstance(item, Recording) else "an ICU stay"
    message = f"this is {found}, and the model {bundle.name} is for {bundle.task}"
    return UnsupportedFormat(message, where=item.source, code="wrong_task")


def refusal(source: str, error: InputError) -> Refusal:
    """The refusal that stands for an input which raised ``error``; its message is one line."""
    return Refusal(source, error.code, one_line(error))
