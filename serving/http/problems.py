"""Refused requests as JSON problems (RFC 9457), each with a machine-readable ``code``.

A refusal by the library keeps its own code and becomes 422 (415 for an unknown format). The codes
here are those of the service itself.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

from starlette.responses import Response

from ibt_deploy.errors import InputError, UnsupportedFormat, one_line
from ibt_deploy.predictions import Refusal

TITLES: dict[str, tuple[int, str]] = {
    "bad_request": (400, "The request cannot be understood"),
    "bad_json": (400, "The body is not valid JSON"),
    "bad_multipart": (400, "The body is not a valid multipart form"),
    "bad_compression": (400, "The compressed content is damaged"),
    "unauthorised": (401, "A bearer token is needed"),
    "no_such_page": (404, "Not found"),
    "method_not_allowed": (405, "The method is not allowed here"),
    "not_acceptable": (406, "The requested form of answer is not available"),
    "slow_body": (408, "The body came too slowly"),
    "prefetch_missing": (412, "The request lacks prefetched data"),
    "prefetch_incomplete": (412, "The prefetched data are not complete"),
    "body_too_large": (413, "The body is too large"),
    "unpacked_too_large": (413, "The body is too large once it is decompressed"),
    "too_many_parts": (413, "Too many files in one request"),
    "unsupported_media_type": (415, "The content type is not understood"),
    "unsupported_encoding": (415, "The content encoding is not understood"),
    "json_too_deep": (422, "The JSON is nested too deeply"),
    "bad_fields": (422, "The JSON does not have the expected form"),
    "unknown_variable": (422, "A name in the JSON is not a variable"),
    "bad_file_name": (422, "A file name cannot be used"),
    "no_recording": (422, "There is not exactly one recording in the upload"),
    "too_many_rows": (422, "Too many rows"),
    "record_too_long": (422, "The recording is too long"),
    "unknown_operating_point": (422, "Unknown operating point"),
    "bad_state": (422, "The state cannot be used"),
    "state_expired": (422, "The state is too old"),
    "wrong_record": (422, "The state belongs to another record"),
    "queue_full": (429, "Too many requests are waiting"),
    "internal_error": (500, "The service failed"),
    "no_memory": (503, "Too many large requests at once"),
    "too_slow": (503, "No answer in time"),
    "draining": (503, "The service is shutting down"),
    "model_failed": (503, "The model could not be run"),
}
"""Status and title of each of the service's own codes."""

MEDIA_TYPE = "application/problem+json"


class Problem(Exception):
    """Ends a request with a problem.

    Parameters
    ----------
    code
        Code in :data:`TITLES`, or a reason code of the library.
    detail
        One sentence: what is wrong and, where that helps, what to do. Names no path of the server.
    status, title
        Looked up for the service's own codes.
    headers
        Headers of the answer.
    """

    def __init__(
        self,
        code: str,
        detail: str,
        *,
        status: int | None = None,
        title: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(detail)
        usual_status, usual_title = TITLES.get(code, (422, "The input is refused"))
        self.code = code
        self.detail = detail
        self.status = usual_status if status is None else status
        self.title = title or usual_title
        self.headers = dict(headers or {})

    @classmethod
    def refused(cls, error: InputError | Refusal) -> Problem:
        """The problem for a refused recording or stay."""
        unknown = error.code == UnsupportedFormat.default_code
        message = error.message if isinstance(error, Refusal) else one_line(error)
        return cls(error.code, message, status=415 if unknown else 422)

    def response(self, request_id: str) -> Response:
        """The answer."""
        return Response(self._body(request_id), self.status, self.headers, MEDIA_TYPE)

    def _body(self, request_id: str) -> str:
        return json.dumps(
            {
                "type": f"urn:ibt:problem:{self.code}",
                "title": self.title,
                "status": self.status,
                "detail": self.detail,
                "code": self.code,
                "request_id": request_id,
            }
        )
