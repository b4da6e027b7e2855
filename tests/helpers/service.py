"""A service in this process that answers with real predictors and can be set to misbehave first."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from email.parser import BytesParser
from email.policy import HTTP
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from ibt_deploy.files import MemoryFolder
from ibt_deploy.predictions import Refusal
from ibt_deploy.predictor import Predictor

Answer = tuple[int, dict[str, str], bytes]
Answering = Callable[[str, dict[str, str], bytes], Answer]


class FakeService:
    """``answers`` are given first, one each; what remains is answered by ``predictors``."""

    def __init__(self, **predictors: Predictor) -> None:
        self.predictors = predictors
        self.answers: list[Answer | None] = []
        self.requests: list[tuple[str, dict[str, str], bytes]] = []
        self.connections = 0
        self.url = ""

    def answer(self, path: str, headers: dict[str, str], body: bytes) -> Answer | None:
        self.requests.append((path, headers, body))
        if self.answers:
            return self.answers.pop(0)
        task = path.rpartition("/")[2]
        files = parts(headers["Content-Type"], body)
        first = next((n for n in files if n.endswith(".hea")), next(iter(files)))
        found = list(self.predictors[task].predict_many([MemoryFolder(files) / first]))
        if len(found) == 1 and isinstance(found[0], Refusal):
            return problem(422, found[0].code, found[0].message)
        entries = [each.to_dict() for each in found]
        return 200, {}, json.dumps(entries[0] if len(entries) == 1 else {"stays": entries}).encode()


def problem(status: int, code: str, detail: str = "no", **headers: str) -> Answer:
    body = {"title": "t", "status": status, "code": code, "detail": detail}
    return status, {k.replace("_", "-"): v for k, v in headers.items()}, json.dumps(body).encode()


def parts(content_type: str, body: bytes) -> dict[str, bytes]:
    """Files of a multipart form, by name, as Python's own mail parser reads them."""
    head = f"Content-Type: {content_type}\r\n\r\n".encode()
    message = BytesParser(policy=HTTP).parsebytes(head + body)
    assert not message.defects
    found: dict[str, bytes] = {}
    for part in message.iter_parts():  # type: ignore[attr-defined]
        content: Any = part.get_payload(decode=True)
        found[str(part.get_filename())] = content
    return found


@contextmanager
def running(service: FakeService) -> Iterator[FakeService]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def setup(self) -> None:
            service.connections += 1
            super().setup()

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            answer = service.answer(self.path, dict(self.headers), body)
            if answer is None:  # hang up
                self.close_connection = True
                return
            status, headers, content = answer
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    service.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield service
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
