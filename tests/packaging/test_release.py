"""What a release states is stated once: version, changes, citation."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

from perceiver_ref.version import __version__


def test_the_version_is_semantic() -> None:
    assert re.fullmatch(r"\d+\.\d+\.\d+", __version__)


def test_the_changes_and_the_citation_have_the_version(root: Path) -> None:
    sections = re.findall(r"^## (.*)$", (root / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert next(name for name in sections if name != "Unreleased") == __version__
    citation = (root / "CITATION.cff").read_text(encoding="utf-8")
    assert re.findall(r"^version: (.*)$", citation, re.MULTILINE) == [__version__]


def test_the_citation_has_the_fields_and_the_licence_of_the_package(root: Path) -> None:
    citation = (root / "CITATION.cff").read_text(encoding="utf-8")
    fields = dict(re.findall(r"^([\w-]+): ?(.*)$", citation, re.MULTILINE))
    assert {"cff-version", "message", "type", "title", "authors"} <= set(fields)  # of the CFF standard
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert fields["license"] == project["license"]
    assert fields["title"].strip('"').startswith(project["name"])


def test_links_of_these_pages_lead_to_files(root: Path) -> None:
    for name in ("CHANGELOG.md", "CONTRIBUTING.md"):
        text = (root / name).read_text(encoding="utf-8")
        links = re.findall(r"\]\(([^)#]+)\)", text) + re.findall(r"`(docs/[\w.]+|perceiver_ref/[\w./]+)`", text)
        assert not [link for link in links if "://" not in link and not (root / link).exists()]
