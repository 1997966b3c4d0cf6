"""The API's description as a plain page: FastAPI's own loads its scripts from elsewhere, and works offline nowhere."""

from __future__ import annotations

import json
from collections.abc import Mapping
from html import escape
from typing import Any


def docs_page(openapi: Mapping[str, Any]) -> str:
    """HTML of an OpenAPI description, without any script."""
    schemas = openapi.get("components", {}).get("schemas", {})
    parts = [
        "<!doctype html><html lang=en><head><meta charset=utf-8>"
        "<meta name=viewport content='width=device-width, initial-scale=1'>"
        f"<title>{escape(openapi['info']['title'])}: API</title></head><body><main>",
        f"<h1>{escape(openapi['info']['title'])} {escape(openapi['info']['version'])}</h1>",
        *_paragraphs(openapi["info"]),
        "<p>As OpenAPI, for machines: <a href=openapi.json>openapi.json</a>. <a href='./'>The page</a>.</p>",
    ]
    for path, operations in openapi["paths"].items():
        for method, operation in operations.items():
            parts += _operation(method, path, operation, schemas)
    parts.append("<h2>Schemas</h2>")
    for name, schema in schemas.items():
        parts.append(f"<h3 id='{escape(name)}'>{escape(name)}</h3>{_folded('Schema', schema)}")
    return "".join([*parts, "</main></body></html>"])


def _operation(method: str, path: str, operation: Mapping[str, Any], schemas: Mapping[str, Any]) -> list[str]:
    parts = [f"<h2><code>{escape(method.upper())} {escape(path)}</code></h2>"]
    parts.append(f"<p><strong>{escape(operation.get('summary', ''))}</strong></p>")
    parts += _paragraphs(operation)
    if operation.get("security"):
        parts.append("<p>Asks for the token: <code>Authorization: Bearer TOKEN</code>.</p>")
    if "x-curl" in operation:
        parts.append(f"<pre>{escape(operation['x-curl'])}</pre>")
    for kind, content in operation.get("requestBody", {}).get("content", {}).items():
        parts.append(f"<p>Request, <code>{escape(kind)}</code>:</p>{_folded('Schema', content['schema'])}")
        parts.append(_example(content, schemas))
    parts.append("<ul>")
    for status, response in operation.get("responses", {}).items():
        contents = response.get("content", {})
        kinds = ", ".join(f"<code>{escape(kind)}</code>" for kind in contents)
        # those of refusals are all alike
        shown = "".join(_example(content, schemas) for content in contents.values()) if status == "200" else ""
        parts.append(f"<li>{escape(status)}: {escape(response.get('description', ''))} {kinds}{shown}</li>")
    return [*parts, "</ul>"]


def _paragraphs(described: Mapping[str, Any]) -> list[str]:
    return [f"<p>{escape(text)}</p>" for text in described.get("description", "").split("\n\n")]


def _example(content: Mapping[str, Any], schemas: Mapping[str, Any]) -> str:
    """A content's example: its own, or that of its schema; nothing where there is none."""
    schema = content.get("schema", {})
    schema = schemas.get(schema.get("$ref", "").rpartition("/")[2], schema)
    example = content.get("example", schema.get("example"))
    return "" if example is None else _folded("Example", example)


def _folded(title: str, content: Any) -> str:
    text = content if isinstance(content, str) else json.dumps(content, indent=2)
    return f"<details><summary>{title}</summary><pre>{escape(text)}</pre></details>"
