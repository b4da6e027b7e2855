"""The service on two tiny bundles, called without a network."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from helpers.bundles import write_ecg_bundle, write_stay_bundle

from serving.http.app import Application, application
from serving.settings import Settings


class Client:
    """Sends single requests to an ASGI application."""

    def __init__(self, app: Any, **headers: str) -> None:
        self.app = app
        self.headers = headers

    def __call__(self, method: str, path: str, **kwargs: Any) -> httpx.Response:
        async def send() -> httpx.Response:
            transport = httpx.ASGITransport(self.app)
            async with httpx.AsyncClient(
                transport=transport, base_url="http://ibt.test", headers=self.headers
            ) as client:
                return await client.request(method, path, **kwargs)

        return asyncio.run(send())

    def get(self, path: str, **kwargs: Any) -> httpx.Response:
        return self("GET", path, **kwargs)

    def post(self, path: str, **kwargs: Any) -> httpx.Response:
        return self("POST", path, **kwargs)

    def upload(self, path: str, *files: tuple[str, bytes], **kwargs: Any) -> httpx.Response:
        return self.post(path, files=[("files", file) for file in files], **kwargs)


@pytest.fixture(scope="session")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    folder = tmp_path_factory.mktemp("served")
    return Settings(
        arrhythmia=str(write_ecg_bundle(folder / "arrhythmia")),
        sepsis=str(write_stay_bundle(folder / "sepsis")),
        device="cpu",
        threads=2,
        body_bytes=2 * 2**20,
        unpacked_bytes=4 * 2**20,
        memory_bytes=16 * 2**20,
        rows=2000,
        record_seconds=120,
        body_seconds=0.5,
        idle_seconds=0.3,
        answer_seconds=10,
        state_key="0123456789abcdef",
    )


@pytest.fixture(scope="session")
def app(settings: Settings) -> Iterator[Application]:
    app = application(settings)
    yield app
    app.close()


@pytest.fixture(scope="session")
def client(app: Application) -> Client:
    return Client(app)


@pytest.fixture(scope="session")
def client_of() -> type[Client]:
    """Makes a client of another application."""
    return Client


@pytest.fixture
def served(settings: Settings) -> Iterator[Any]:
    """A function that makes an application with other settings."""
    made: list[Application] = []

    def make(**changes: Any) -> Application:
        made.append(application(replace(settings, **changes)))
        return made[-1]

    yield make
    for app in made:
        app.close()


@pytest.fixture(scope="session")
def examples() -> Path:
    return Path(__file__).resolve().parents[2] / "examples"


@pytest.fixture(scope="session")
def ecg_files(examples: Path) -> list[tuple[str, bytes]]:
    return [(name, (examples / name).read_bytes()) for name in ("recording.hea", "recording.dat")]
