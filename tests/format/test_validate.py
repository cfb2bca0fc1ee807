"""Documents: invalid ones give their reason code, sound ones what was written."""

import copy
import json
from pathlib import Path

import pytest
from corpus import CORPUS, cases
from jsonschema import Draft202012Validator

from sharkstore.errors import FormatError, VersionError
from sharkstore.format import validate
from sharkstore.format.version import major_of

SCHEMA = json.loads((CORPUS.parent / "sharkstore-1.schema.json").read_text())
SPEC = (CORPUS.parent / "sharkstore-1.md").read_text()
INVALID = cases("invalid")
# codes whose rule is on one value of our attributes, which a schema can state
IN_SCHEMA = {"digest", "provenance", "rows-range", "dim-range", "pruned", "source-dtype", "mode"}
IN_SCHEMA |= {"tiers", "encoding-unknown", "scale-dtype", "scale-exponent-range", "version-newer"}
IN_SCHEMA |= {"version", "sub", "entries-range", "codebook-dtype"}
BETWEEN_VALUES = {"pruned.tiers"}


def schema(name: str) -> Draft202012Validator:
    return Draft202012Validator({"$defs": SCHEMA["$defs"], "$ref": f"#/$defs/{name}"})


def ours(document: dict) -> list[tuple[str, object]]:
    """Attributes of ours in a root document, with the schema's name for them."""
    found = [("root", document["attributes"].get("sharkstore"))]
    for path, node in document.get("consolidated_metadata", {}).get("metadata", {}).items():
        kind = {"tables": "table", "dense": "dense"}.get(path.split("/")[0])
        if path.count("/") == 1 and kind:
            found.append((kind, node["attributes"].get("sharkstore")))
    return found


@pytest.mark.parametrize("path", INVALID, ids=lambda path: path.stem)
def test_invalid_document_gives_its_reason_code_alone(path: Path):
    case = json.loads(path.read_text())
    metadata, problems = validate.check(case["document"])
    assert metadata is None
    assert [problem.code for problem in problems] == [case["code"]]
    assert f"`{case['code']}`" in SPEC


@pytest.mark.parametrize("path", INVALID, ids=lambda path: path.stem)
def test_schema_refuses_what_it_can_state(path: Path):
    case = json.loads(path.read_text())
    sound = all(schema(kind).is_valid(value) for kind, value in ours(case["document"]))
    if case["code"] in IN_SCHEMA and path.stem not in BETWEEN_VALUES:
        assert not sound


@pytest.mark.parametrize("path", cases("stores", "*/zarr.json"), ids=lambda path: path.parent.name)
def test_golden_documents_keep_schema_and_rules(path: Path):
    document = json.loads(path.read_text())
    for kind, value in ours(document):
        schema(kind).validate(value)
    metadata, problems = validate.check(document)
    assert problems == []
    assert metadata is not None
    assert metadata.document() == document


def test_every_reason_code_has_a_case():
    listed = SPEC.split("## Reason codes")[1].split("## Changes")[0]
    codes = {word for word in listed.split("`")[1::2] if word != "format"}
    tested = {json.loads(path.read_text())["code"] for path in INVALID}
    assert codes - {"attributes.sharkstore"} == tested


def test_unknown_members_and_arrays_are_ignored():
    path = CORPUS / "stores" / "1.0-tiers" / "zarr.json"
    document = json.loads(path.read_text())
    newer = copy.deepcopy(document)
    newer["attributes"]["sharkstore"]["format"] = "1.9"
    newer["attributes"]["sharkstore"]["later"] = {"more": 1}
    nodes = newer["consolidated_metadata"]["metadata"]
    nodes["tables/one/0.extra"] = nodes["tables/one/0"]
    nodes["later"] = {"zarr_format": 3, "node_type": "group", "attributes": {}}
    metadata, problems = validate.check(newer)
    assert problems == []
    assert [table.name for table in metadata.tables] == [
        table.name for table in validate.parse(document, "").tables
    ]


def test_documents_of_other_writers_are_read():
    document = json.loads((CORPUS / "stores" / "1.0-tiers" / "zarr.json").read_text())
    for node in document["consolidated_metadata"]["metadata"].values():
        if node["node_type"] == "array":
            node["dimension_names"] = ["row", "value"]
            node["codecs"] = [{"name": "bytes", "configuration": {"endian": "little"}}, "crc32c"]
            node["chunk_key_encoding"] = {"name": "default"}
            del node["storage_transformers"]
    assert validate.check(document)[1] == []


def test_all_problems_are_told_at_once():
    document = json.loads((CORPUS / "stores" / "1.0-tiers" / "zarr.json").read_text())
    nodes = document["consolidated_metadata"]["metadata"]
    nodes["tables/one/0"]["data_type"] = "int8"
    nodes["tables/two/rowmap"]["codecs"] = []
    with pytest.raises(FormatError, match=r"tables/one/0[\s\S]*tables/two/rowmap") as raised:
        validate.parse(document, "here")
    assert len(raised.value.problems) == 2


def test_newer_major_version_is_an_error_of_its_own():
    case = json.loads((CORPUS / "invalid" / "version-newer.json").read_text())
    with pytest.raises(VersionError, match="upgrade"):
        validate.parse(case["document"], "here")


@pytest.mark.parametrize("document", [None, 3, [], {}, {"zarr_format": 3}, {"zarr_format": "3"}])
def test_json_that_is_no_document_is_refused(document):
    metadata, problems = validate.check(document)
    assert metadata is None
    assert problems


@pytest.mark.parametrize(("text", "major"), [("1.0", 1), ("12.3", 12), ("1", None), ("01.0", None)])
def test_versions(text, major):
    assert major_of(text) == major
