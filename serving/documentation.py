"""``/docs``: the OpenAPI document as one page of HTML, without scripts and without assets of others."""

from __future__ import annotations

import json
import re
from html import escape
from typing import Any

from serving.openapi import BASE

_ORIGIN = re.compile(r"https?://[A-Za-z0-9.\-\[\]:]+")


def page(document: dict[str, Any], base: str) -> str:
    """The page; ``base`` is the address under which the reader found it, for commands that can be pasted."""
    origin = base.rstrip("/")
    origin = origin if _ORIGIN.fullmatch(origin) else BASE
    info = document["info"]
    sections = "".join(
        _operation(method, path, operation).replace(BASE, origin)
        for path, operations in document["paths"].items()
        for method, operation in operations.items()
    )
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<title>ibt: HTTP interface</title><link rel="stylesheet" href="/docs.css"></head><body><main>'
        f"<h1>ibt {escape(info['version'])}: HTTP interface</h1><p>{escape(info['summary'])}</p>"
        f"<p>{escape(info['description'])}</p>"
        '<p>For machines: <a href="/openapi.json">openapi.json</a>. To try it: <a href="/">the page</a>.</p>'
        f"{sections}</main></body></html>"
    )


def _operation(method: str, path: str, operation: dict[str, Any]) -> str:
    parts = [
        f"<section><h2><code>{method.upper()} {escape(path)}</code></h2>",
        f"<p>{escape(operation['summary'])}.</p>",
    ]
    if "description" in operation:
        parts.append(f"<p>{escape(operation['description'])}</p>")
    if operation["parameters"]:
        parts.append("<h3>Parameters</h3><dl>")
        parts += [_parameter(parameter) for parameter in operation["parameters"]]
        parts.append("</dl>")
    parts += [_code(sample["source"]) for sample in operation["x-codeSamples"]]
    for kind, content in operation.get("requestBody", {}).get("content", {}).items():
        for name, example in content.get("examples", {}).items():
            value = example["value"]
            text = value if isinstance(value, str) else json.dumps(value)
            parts.append(f"<details><summary>{escape(kind)}: {escape(name)}</summary>{_code(text)}</details>")
    codes = ", ".join(operation["responses"])
    return "".join([*parts, f"<p>Answers: {escape(codes)}.</p></section>"])


def _parameter(parameter: dict[str, Any]) -> str:
    schema = parameter["schema"]
    allowed = ", ".join(schema.get("enum", []))
    return (
        f"<dt><code>{escape(parameter['name'])}</code> ({escape(parameter['in'])})</dt>"
        f"<dd>{escape(parameter.get('description', ''))} {escape(allowed)}</dd>"
    )


def _code(text: str) -> str:
    return f'<pre tabindex="0"><code>{escape(text)}</code></pre>'
