"""The OpenAPI document (3.1) of a table of operations. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import msgspec

from ..protocol.limits import MAX_CONNECTION_NAME
from .operations import EVENT_STREAM, Operation, Operations, Text
from .problem_kinds import Problem

__all__ = ["openapi_document"]

_REFERENCE = "#/components/schemas/{name}"
_PARAMETER = re.compile(r"\{([a-z_]+)\}")
_PROBLEM_SCHEMA = {
    "title": "Problem",
    "description": "A problem document (RFC 9457).",
    "type": "object",
    "properties": {
        "type": {"type": "string"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string"},
        "requestId": {
            "type": "string",
            "description": "The id of the request, as in the header Request-Id and the log.",
        },
        "remedy": {"type": "string", "description": "What the caller can do."},
        "errors": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {"pointer": {"type": "string"}, "detail": {"type": "string"}},
                "required": ["pointer", "detail"],
            },
        },
    },
    "required": ["title", "status", "detail"],
}
_PATH_PARAMETERS: Mapping[str, Mapping[str, Any]] = {
    "name": {
        "description": "The name of a hybrid connection; a slash in it is written %2F.",
        "schema": {
            "type": "string",
            "pattern": "^[A-Za-z0-9._-]+(/[A-Za-z0-9._-]+)*$",
            "minLength": 1,
            "maxLength": MAX_CONNECTION_NAME,
        },
        "example": "orders",
    },
    "rule": {
        "description": "The name of an authorization rule.",
        "schema": {"type": "string", "pattern": "^[A-Za-z0-9._-]{1,256}$"},
        "example": "application",
    },
    "log": {
        "description": "The id of an audit log.",
        "schema": {"type": "string", "pattern": "^[0-9a-f]{16}$"},
        "example": "0123456789abcdef",
    },
    "edition": {
        "description": "The name of an edition.",
        "schema": {"type": "string", "pattern": "^[a-z0-9-]{1,64}$"},
        "example": "standard",
    },
    "instance": {
        "description": "The instance of a connector.",
        "schema": {"type": "string", "pattern": "^[0-9a-f]{32}$"},
        "example": "0123456789abcdef0123456789abcdef",
    },
    "sender": {
        "description": "The id of a sender, from the list of senders.",
        "schema": {"type": "string", "pattern": "^[0-9a-f]{16}$"},
        "example": "0123456789abcdef",
    },
    "claim": {
        "description": "The id of a claim.",
        "schema": {"type": "string", "pattern": "^[0-9a-f]{32}$"},
        "example": "0123456789abcdef0123456789abcdef",
    },
    "session": {
        "description": "The id of a session, from the list of sessions; activity_id in events.",
        "schema": {"type": "string", "pattern": "^[0-9a-f]{32}$"},
        "example": "0123456789abcdef0123456789abcdef",
    },
    "token": {
        "description": "The id of a token.",
        "schema": {"type": "string", "pattern": "^[A-Za-z0-9]{8}$"},
        "example": "aB3dE5gH",
    },
}
_SECURITY_SCHEMES = {
    "token": {
        "type": "http",
        "scheme": "bearer",
        "description": "A token of this API: 'hybridrelay tokens create', or createToken.",
    },
    "sharedAccessSignature": {
        "type": "apiKey",
        "in": "header",
        "name": "Authorization",
        "description": "'SharedAccessSignature sr=...' by a key with the right Manage, for its hybrid connection.",
    },
    "clientCertificate": {"type": "mutualTLS", "description": "Issued by the CA of --management-client-ca."},
}
_ETAG = {"type": "string", "pattern": '^"[0-9]+"$', "example": '"12"'}


def openapi_document(
    operations: Operations[Any],
    *,
    version: str,
    title: str = "hybridrelay management API",
    description: str = "Inspects and changes a relay, for its administrators. See docs/management.md.",
    has_callers: bool = True,
) -> dict[str, Any]:
    """Make the OpenAPI document.

    Args:
        operations: the table.
        version: the version of the program.
        title: the title of the API.
        description: a sentence about it.
        has_callers: whether requests need credentials, and operations need a role.
    """
    types = [part for row in operations for part in (row.body, row.answer) if part not in (None, Text)]
    _, schemas = msgspec.json.schema_components(types, ref_template=_REFERENCE)
    paths: dict[str, dict[str, Any]] = {}
    for row in operations:
        paths.setdefault(row.path, {})[row.method.lower()] = _operation(row, has_callers=has_callers)
    security: dict[str, Any] = {
        # Alternatives. The empty one is for the Unix socket, which identifies the caller by itself.
        "security": [*({name: []} for name in _SECURITY_SCHEMES), {}],
    }
    return {
        "openapi": "3.1.0",
        "info": {
            "title": title,
            "version": version,
            "description": description,
        },
        # Relative to the document's URL, because a relay does not know the name under which clients reach it.
        "servers": [{"url": "/"}],
        "paths": paths,
        "components": {
            "schemas": {**schemas, "Problem": _PROBLEM_SCHEMA},
            **({"securitySchemes": _SECURITY_SCHEMES} if has_callers else {}),
        },
        **(security if has_callers else {}),
    }


def _operation(row: Operation[Any], *, has_callers: bool) -> dict[str, Any]:
    document: dict[str, Any] = {
        "operationId": row.id,
        "summary": row.summary,
        **({"description": f"Needs the role {row.role.name.lower()}."} if has_callers else {}),
        "parameters": [*_path_parameters(row), *_query_parameters(row), *_header_parameters(row)],
        "responses": _responses(row),
    }
    if row.body is not None:
        content = {"application/json": {"schema": _reference(row.body)}}
        document["requestBody"] = {"required": True, "content": content}
    return document


def _path_parameters(row: Operation[Any]) -> list[dict[str, Any]]:
    return [
        {"name": name, "in": "path", "required": True, **_PATH_PARAMETERS[name]}
        for name in _PARAMETER.findall(row.path)
    ]


def _query_parameters(row: Operation[Any]) -> list[dict[str, Any]]:
    if row.query is None:
        return []
    schema = msgspec.json.schema(row.query)
    ((_, definition),) = schema["$defs"].items()
    return [
        {"name": name, "in": "query", "required": False, "schema": _without_null(part)}
        for name, part in definition["properties"].items()
    ]


def _without_null(schema: dict[str, Any]) -> dict[str, Any]:
    """Remove null from a parameter's types, because an optional parameter is omitted instead."""
    if "anyOf" not in schema:
        return schema
    (kept,) = [part for part in schema["anyOf"] if part != {"type": "null"}]
    return kept  # type: ignore[no-any-return]


def _header_parameters(row: Operation[Any]) -> list[dict[str, Any]]:
    if not row.versioned or row.method == "GET":
        return []
    found = [{"name": "If-Match", "in": "header", "required": False, "schema": _ETAG}]
    if row.creates:
        only = {"type": "string", "enum": ["*"]}
        found.append({"name": "If-None-Match", "in": "header", "required": False, "schema": only})
    return found


def _responses(row: Operation[Any]) -> dict[str, Any]:
    headers = {"ETag": {"schema": _ETAG}} if row.versioned and row.answer is not None else {}
    responses: dict[str, Any] = {
        "default": {
            "description": "A problem: " + ", ".join(f"{kind.status} {kind.value[0]}" for kind in Problem),
            "content": {"application/problem+json": {"schema": {"$ref": _REFERENCE.format(name="Problem")}}},
        }
    }
    if row.answer is None:
        responses["204"] = {"description": "It was done."}
    else:
        content = {row.media_type: {"schema": {"type": "string"} if row.answer is Text else _reference(row.answer)}}
        if row.streams is not None:
            content[EVENT_STREAM] = {"schema": {"type": "string"}}
        description = "It was done." if row.is_audited else "The requested resource."
        links = {name: {"operationId": name, "parameters": dict(row.leads_to[name])} for name in row.leads_to}
        success = {"description": description, "headers": headers, "content": content, "links": links}
        responses["200"] = success
        if row.may_be_unavailable:
            responses["503"] = {**success, "description": "It is not available; the response says why."}
        if row.creates:
            responses["201"] = {**success, "description": "It was created."}
    return responses


def _reference(kind: type[msgspec.Struct]) -> dict[str, str]:
    return {"$ref": _REFERENCE.format(name=kind.__name__)}
