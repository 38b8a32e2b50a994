"""The form of the golden vectors: each file loads, names are unique, requirements exist, nothing unknown passes."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from anyserve_conformance import vectors
from anyserve_conformance.vectors import VectorError, as_bytes, as_text

ROOT = Path(__file__).resolve().parents[2]
GOOD = {
    "name": "n",
    "requirement": "frame.length.zero",
    "why": "w",
    "limit": 1,
    "bytes": "",
    "payloads": [],
    "state": "complete",
}


def requirement_names() -> set[str]:
    """The names in the spec, found by the expression that the spec gives for that."""
    spec = ROOT / "docs" / "spec"
    [expression] = re.findall(r"^```\n(\^.*\$)\n```$", (spec / "README.md").read_text(), re.MULTILINE)
    pages = "\n".join(page.read_text() for page in spec.glob("*.md") if page.name != "README.md")
    return {match[0] for match in re.findall(expression, pages, re.MULTILINE)}


def test_there_is_a_file_for_each_format_and_no_other() -> None:
    assert {path.stem for path in vectors.directory().glob("*.json")} == set(vectors.FILES)


@pytest.mark.parametrize("file", vectors.FILES)
def test_vectors_name_requirements_of_the_spec_and_say_why(file: str) -> None:
    known = requirement_names()
    assert len(known) > 200
    loaded = vectors.load(file)
    assert loaded
    assert {vector.requirement for vector in loaded} - known == set()
    for vector in loaded:
        assert re.fullmatch(r"[a-z0-9'.-]+", vector.name), vector.name
        assert vector.why.strip(), vector.name


@pytest.mark.parametrize("file", vectors.FILES)
def test_each_kind_is_used(file: str) -> None:
    assert {vector.kind for vector in vectors.load(file)} == set(vectors.FILES[file])


def test_the_readme_names_every_key() -> None:
    readme = (vectors.directory() / "README.md").read_text()
    keys = {
        key for kinds in vectors.FILES.values() for required, optional in kinds.values() for key in required | optional
    }
    for required, optional in (vectors.REGISTRATION, vectors.REQUEST, vectors.ATTEMPT, *vectors.EVENTS.values()):
        keys |= required | optional
    assert {key for key in keys if f"`{key}`" not in readme} == set()


class TestLoader:
    def load(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *contents: dict[str, Any]) -> list[vectors.Vector]:
        (tmp_path / "frames.json").write_text(json.dumps({"about": "x", "vectors": contents}))
        monkeypatch.setattr(vectors, "directory", lambda: tmp_path)
        return vectors.load("frames")

    def test_reads_a_vector(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        [vector] = self.load(tmp_path, monkeypatch, GOOD)
        assert (vector.name, vector["limit"], vector.get("needs"), "state" in vector) == ("n", 1, None, True)

    @pytest.mark.parametrize(
        ("change", "said"),
        [
            ({"colour": "red"}, "unknown colour"),
            ({"kind": "request"}, "kind 'request'"),
            ({"limit": None}, "lacks limit"),
        ],
    )
    def test_refuses_what_the_format_does_not_have(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: dict[str, Any], said: str
    ) -> None:
        content = {key: value for key, value in (GOOD | change).items() if value is not None}
        with pytest.raises(VectorError, match=said):
            self.load(tmp_path, monkeypatch, content)

    def test_refuses_a_name_that_stands_twice(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        with pytest.raises(VectorError, match="twice"):
            self.load(tmp_path, monkeypatch, GOOD, GOOD)

    def test_values(self) -> None:
        assert as_bytes(["00 01  ff", {"repeat": "61 62", "times": 2}, ""]) == b"\x00\x01\xffabab"
        assert as_text(["ü", {"repeat": "ab", "times": 2}]) == "üabab"

    @pytest.mark.parametrize(
        "value",
        [{"repeat": "61"}, {"repeat": "61", "times": 1, "more": 1}, {"repeat": "61", "times": 1 << 40}, 5, None],
    )
    def test_refuses_other_values(self, value: Any) -> None:
        with pytest.raises(VectorError):
            as_bytes(value)
        with pytest.raises(VectorError):
            as_text(value)

    def test_an_installed_package_brings_them_inside(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(vectors, "__file__", str(tmp_path / "anyserve_conformance" / "vectors.py"))
        assert vectors.directory() == tmp_path / "vectors"
        (tmp_path / "anyserve_conformance" / "vectors").mkdir(parents=True)
        assert vectors.directory() == tmp_path / "anyserve_conformance" / "vectors"
