"""The API's description as a plain page: FastAPI's own loads its scripts from elsewhere, and works offline nowhere."""

from __future__ import annotations

import json
from collections.abc import Mapping
from html import escape
from typing import Any


def docs_page(openapi: Mapping[str, Any]) -> str:
    """HTML of an OpenAPI description, without any script."""
    parts = [
        "<!doctype html><html lang=en><head><meta charset=utf-8>"
        "<meta name=viewport content='width=device-width, initial-scale=1'>"
        f"<title>{escape(openapi['info']['title'])}: API</title></head><body><main>",
        f"<h1>{escape(openapi['info']['title'])} {escape(openapi['info']['version'])}</h1>",
        *(f"<p>{escape(text)}</p>" for text in openapi["info"].get("description", "").split("\n\n")),
        "<p>As OpenAPI, for machines: <a href=openapi.json>openapi.json</a>. <a href='./'>The page</a>.</p>",
    ]
    for path, operations in openapi["paths"].items():
        for method, operation in operations.items():
            parts += _operation(method, path, operation)
    parts.append("<h2>Schemas</h2>")
    for name, schema in openapi.get("components", {}).get("schemas", {}).items():
        parts.append(f"<h3 id='{escape(name)}'>{escape(name)}</h3>{_json(schema)}")
    return "".join([*parts, "</main></body></html>"])


def _operation(method: str, path: str, operation: Mapping[str, Any]) -> list[str]:
    parts = [f"<h2><code>{escape(method.upper())} {escape(path)}</code></h2>"]
    parts += [f"<p>{escape(text)}</p>" for text in operation.get("description", "").split("\n\n")]
    if "x-curl" in operation:
        parts.append(f"<pre>{escape(operation['x-curl'])}</pre>")
    for kind, content in operation.get("requestBody", {}).get("content", {}).items():
        parts.append(f"<p>Request, <code>{escape(kind)}</code>:</p>{_json(content['schema'])}")
    parts.append("<ul>")
    for status, response in operation.get("responses", {}).items():
        kinds = ", ".join(f"<code>{escape(kind)}</code>" for kind in response.get("content", {}))
        parts.append(f"<li>{escape(status)}: {escape(response.get('description', ''))} {kinds}</li>")
    return [*parts, "</ul>"]


def _json(content: Any) -> str:
    return f"<details><summary>Schema</summary><pre>{escape(json.dumps(content, indent=2))}</pre></details>"
