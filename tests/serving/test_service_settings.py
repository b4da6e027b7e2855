from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import click
import pytest
import yaml
from click.testing import CliRunner

import serving.server
from serving import health
from serving.cli import serve
from serving.settings import PREFIX, Settings, SettingsError

TOKEN_HINT = "--token-file"


def test_every_setting_is_a_variable_and_documented(root: Path) -> None:
    page = (root / "docs" / "service.md").read_text(encoding="utf-8")
    for field in fields(Settings):
        assert f"`{PREFIX}{field.name.upper()}`" in page
    chosen = Settings.from_environment(
        {"IBT_SERVE_QUEUE": "7", "IBT_SERVE_IDLE_SECONDS": "0.5", "OTHER": "x"}
    )
    assert (chosen.queue, chosen.idle_seconds, chosen.body_bytes) == (7, 0.5, Settings().body_bytes)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("QUEUE", "x"),
        ("QUEUE", "0"),
        ("BODY_SECONDS", "nan"),
        ("ROWS", "-1"),
        ("TOKEN", "short"),
        ("TOKEN", ""),
        ("TOKEN", " \n"),
        ("STATE_KEY", ""),
        ("STATE_KEY", "a key that is long enough\nshort"),
    ],
)
def test_settings_that_cannot_be_used_are_refused(name: str, value: str) -> None:
    with pytest.raises(SettingsError, match=f"{PREFIX}{name}"):
        Settings.from_environment({f"{PREFIX}{name}": value})


def test_secrets_are_not_shown_and_differ() -> None:
    settings = Settings(token="a token that is long")
    assert "token that" not in repr(settings)
    assert settings.state_key not in repr(settings)
    assert settings.state_key != Settings().state_key


def test_options_reach_the_workers_through_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = tmp_path / "token"
    token.write_text("a token that is long\n")
    given: list[object] = []

    def run(host: str, port: int, workers: int, *rest: object) -> None:
        given.extend([host, port, workers, Settings.from_environment()])

    monkeypatch.setattr(serving.server, "run", run)
    options = ["--port", "0", "--workers", "3", "--threads", "2", "--queue", "9", "--token-file", str(token)]
    with pytest.MonkeyPatch.context() as environment:
        for field in fields(Settings):  # undo whatever the command sets
            environment.setenv(f"{PREFIX}{field.name.upper()}", "")
            environment.delenv(f"{PREFIX}{field.name.upper()}")
        result = CliRunner().invoke(serve, options)
    assert result.exit_code == 0, result.output
    host, port, workers, settings = given
    assert (host, port, workers) == ("127.0.0.1", 0, 3)
    assert isinstance(settings, Settings)
    assert (settings.threads, settings.queue, settings.token) == (2, 9, "a token that is long")


@pytest.mark.parametrize("option", ["--token-file", "--state-key-file"])
@pytest.mark.parametrize("content", [b"", b" \n\n", b"\xff\xfe"])
def test_a_secret_that_was_not_filled_in_is_refused(tmp_path: Path, option: str, content: bytes) -> None:
    (tmp_path / "secret").write_bytes(content)
    result = CliRunner().invoke(serve, [option, str(tmp_path / "secret")])
    assert isinstance(result.exception, SettingsError)
    assert str(tmp_path / "secret") in str(result.exception)


@pytest.mark.parametrize(
    ("host", "token", "certificate", "warnings"),
    [
        ("127.0.0.1", "", None, 0),
        ("::1", "", None, 0),
        ("localhost", "", None, 0),
        ("0.0.0.0", "", None, 2),
        ("::", "a token that is long", None, 1),
        ("192.0.2.1", "", Path("cert.pem"), 1),
        ("0.0.0.0", "a token that is long", Path("cert.pem"), 0),
    ],
)
def test_a_service_that_is_open_to_a_network_says_so(
    host: str, token: str, certificate: Path | None, warnings: int, capsys: pytest.CaptureFixture[str]
) -> None:
    serving.server.warn_if_open(host, Settings(token=token), certificate)
    said = capsys.readouterr().err
    assert said.count("WARNING") == warnings
    assert TOKEN_HINT not in said or not token


@pytest.mark.parametrize(
    ("stated", "expected"),
    [
        ({}, "true"),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://a"}, "None"),
        ({"BENTOML_CONFIG": "a.yaml"}, "None"),
    ],
)
def test_spans_are_made_only_where_somebody_configured_them(
    root: Path, stated: dict[str, str], expected: str
) -> None:
    plain = {name: value for name, value in os.environ.items() if not name.startswith(("OTEL_", "BENTOML_"))}
    asked = "import serving, os; print(os.environ.get('OTEL_SDK_DISABLED'))"
    ran = subprocess.run(
        [sys.executable, "-c", asked],
        cwd=root,
        env=plain | stated,
        capture_output=True,
        text=True,
        check=True,
    )
    assert ran.stdout.strip() == expected


@pytest.mark.parametrize(
    "options",
    [["--operating-point", "x"], ["--ssl-keyfile", __file__], ["--workers", "0"], ["--port", "70000"]],
)
def test_options_that_make_no_sense_are_refused(options: list[str]) -> None:
    result = CliRunner().invoke(serve, options)
    assert result.exit_code == click.UsageError.exit_code


def test_the_examples_of_the_service_are_those_of_the_repository(root: Path) -> None:
    for path in (root / "serving" / "examples").iterdir():
        assert path.read_bytes() == (root / "examples" / path.name).read_bytes()


def test_an_image_has_the_versions_that_the_tests_ran_with(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(root / "deploy")
    from requirements import requirements

    written = (root / "deploy" / "requirements.txt").read_text(encoding="utf-8").splitlines()
    assert written == requirements(), "python deploy/requirements.py writes it again"
    assert {"granian", "bentoml", "onnxruntime"} <= {line.partition("==")[0] for line in written}
    bento = yaml.safe_load((root / "deploy" / "bentofile.yaml").read_text(encoding="utf-8"))
    assert bento["python"]["requirements_txt"].endswith("deploy/requirements.txt")


def test_a_container_is_asked_at_the_address_that_it_serves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "address"
    monkeypatch.setenv("IBT_SERVE_ADDRESS_FILE", str(file))
    assert health.main() == 1  # it has not started yet
    for host, port, certificate, address in (
        ("0.0.0.0", 3000, None, "http://127.0.0.1:3000"),
        ("::", 8443, Path("cert.pem"), "https://[::1]:8443"),
        ("127.0.0.1", 80, None, "http://127.0.0.1:80"),
    ):
        serving.server.announce("http" if certificate is None else "https", host, port)
        assert file.read_text().strip() == address
    asked: list[str] = []
    monkeypatch.setattr(health, "is_ready", lambda address: asked.append(address) or True)
    assert health.main() == 0
    assert asked == ["http://127.0.0.1:80"]


def test_bentoml_waits_a_little_longer_than_the_service(root: Path) -> None:
    """Until then it keeps what it knows of every request, so not for much longer."""
    pytest.importorskip("uvicorn", reason="the service is not installed: pip install 'ibt[serve]'")
    asked = "from serving.service import Scoring; print(Scoring.config['traffic']['timeout'])"
    told = subprocess.run([sys.executable, "-c", asked], cwd=root, capture_output=True, text=True, check=True)
    longest = Settings().body_seconds + Settings().answer_seconds
    assert longest < float(told.stdout) < longest + 30
