"""What ends a batch run, in one line; what is done stays done."""

from __future__ import annotations

from ibt_deploy.errors import IbtError


class BatchError(IbtError):
    """A batch run that cannot start, or cannot go on; it can be resumed unless the message says otherwise."""
