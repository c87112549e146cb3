"""Makes the examples of an OpenAPI document whole: FastAPI leaves out their nulls, which are required."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

_REF: Final = "#/components/schemas/"
_NULL: Final[Mapping[str, Any]] = {"type": "null"}


def complete_examples(document: dict[str, Any]) -> None:
    """Add the nulls that are missing in the examples of answers, and of the schemas themselves."""
    schemas = document.get("components", {}).get("schemas", {})
    for content in _contents(document):
        schema = content.get("schema", {})
        if "example" in content:
            content["example"] = _completed(content["example"], schema, schemas)
        for each in content.get("examples", {}).values():
            each["value"] = _completed(each["value"], schema, schemas)
    for schema in schemas.values():
        if "examples" in schema:
            schema["examples"] = [_completed(each, schema, schemas) for each in schema["examples"]]


def _contents(document: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    for methods in document.get("paths", {}).values():
        for operation in methods.values():
            for answer in operation.get("responses", {}).values():
                yield from answer.get("content", {}).values()


def _completed(value: Any, schema: Mapping[str, Any], schemas: Mapping[str, Any]) -> Any:
    schema = _form_of(value, schema, schemas)
    if isinstance(value, list) and "items" in schema:
        return [_completed(each, schema["items"], schemas) for each in value]
    if not isinstance(value, dict):
        return value
    properties = schema.get("properties", {})
    others = schema.get("additionalProperties")
    others = others if isinstance(others, dict) else {}
    whole = {name: _completed(each, properties.get(name, others), schemas) for name, each in value.items()}
    missing = [name for name in schema.get("required", ()) if name not in whole]
    return whole | {name: None for name in missing if _NULL in properties.get(name, {}).get("anyOf", ())}


def _form_of(value: Any, schema: Mapping[str, Any], schemas: Mapping[str, Any]) -> Mapping[str, Any]:
    """What a schema says of a value: that which it refers to, or the alternative for such a value."""
    if (reference := schema.get("$ref", "")).startswith(_REF):
        return _form_of(value, schemas.get(reference.removeprefix(_REF), {}), schemas)
    wanted = "array" if isinstance(value, list) else "object"
    for each in schema.get("anyOf", ()):
        found = _form_of(value, each, schemas)
        if found.get("type") == wanted:
            return found
    return schema
