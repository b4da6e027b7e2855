from __future__ import annotations

import json
import re
from typing import Any

import jsonschema
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode

from serving.http.problems import TITLES

EXAMPLES = 15


@pytest.fixture(scope="module")
def document(client: Any) -> dict[str, Any]:
    answer = client.get("/openapi.json")
    assert answer.status_code == 200
    return dict(answer.json())


def operations(document: dict[str, Any]) -> list[tuple[str, str, dict[str, Any]]]:
    return [
        (path, method, operation)
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    ]


def validate(value: Any, schema: dict[str, Any], document: dict[str, Any]) -> None:
    jsonschema.Draft202012Validator(schema | {"components": document["components"]}).validate(value)


def test_every_example_is_valid_and_answered_as_the_document_says(
    client: Any, document: dict[str, Any]
) -> None:
    sent = 0
    for path, _, operation in operations(document):
        for kind, content in operation.get("requestBody", {}).get("content", {}).items():
            for example in content.get("examples", {}).values():
                value = example["value"]
                validate(value, content["schema"], document)
                text = value if isinstance(value, str) else json.dumps(value)
                answer = client.post(path, content=text, headers={"content-type": kind})
                assert answer.status_code == 200, answer.text
                schema = operation["responses"]["200"]["content"]["application/json"]["schema"]
                validate(answer.json(), schema, document)
                sent += 1
    assert sent >= 6


def test_problems_are_as_the_document_says(client: Any, document: dict[str, Any]) -> None:
    for answer in (client.post("/v1/sepsis", json=1), client.get("/nothing"), client.get("/v1/sepsis")):
        validate(answer.json(), document["components"]["schemas"]["ProblemDetails"], document)


def test_every_operation_has_a_command_to_paste(document: dict[str, Any]) -> None:
    for path, _, operation in operations(document):
        (sample,) = operation["x-codeSamples"]
        assert path.replace("{task}", "sepsis") in sample["source"]


def test_documentation_needs_nothing_from_elsewhere(client: Any) -> None:
    answer = client.get("/docs")
    addresses = re.findall(r'(?:src|href)="([^"]+)"', answer.text)
    assert addresses
    for address in addresses:
        assert address.startswith("/")
        asset = client.get(address)
        assert asset.status_code == 200
        assert not asset.headers["content-type"].startswith("application/problem")
    assert "googletagmanager" not in answer.text  # as BentoML's own page has it
    assert client.get("/docs/../settings.py").status_code == 404


def test_every_code_of_the_service_is_documented(root: Any) -> None:
    documented = set(
        re.findall(r"`([a-z0-9_]+)`", (root / "docs" / "service.md").read_text(encoding="utf-8"))
    )
    assert TITLES.keys() <= documented


@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE])
def test_nothing_that_fits_or_breaks_the_document_breaks_the_service(app: Any, mode: GenerationMode) -> None:
    schema = schemathesis.openapi.from_asgi("/openapi.json", app)
    for found in schema.get_all_operations():
        operation = found.ok()

        @given(operation.as_strategy(generation_mode=mode))
        @settings(
            max_examples=EXAMPLES, database=None, derandomize=True, suppress_health_check=list(HealthCheck)
        )
        def send(case: Any) -> None:
            answer = case.call()
            assert answer.status_code < 500, answer.text

        try:
            send()
        except Unsatisfiable:  # an operation without input cannot be broken
            assert mode == GenerationMode.NEGATIVE
