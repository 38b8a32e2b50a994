"""docs/spec/*.md to requirements.json: the pages are the source, the file is what the suite carries along."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

__all__ = ["extract", "render"]

PAGES = ("serving", "routing", "management", "framing", "streaming", "queues", "lifecycle")

# As docs/spec/README.md has it.
REQUIREMENT = re.compile(
    r"^`((?:serving|manage|frame|stream|route|queue|lifecycle)(?:\.[a-z0-9]+(?:-[a-z0-9]+)*){2})` "
    r"((The (?:server|agent|worker|client|sender|receiver|instance)) .*\b(MUST|SHOULD|MAY)\b.*\.)$"
)
KEYWORD = re.compile(r"\b(?:MUST|SHOULD|MAY)\b")
NAME = re.compile(r"^`(?:serving|manage|frame|stream|route|queue|lifecycle)\.\S*` ")


def extract(directory: Path) -> list[dict[str, str]]:
    """The requirements of the specification, in its order.

    Raises:
        ValueError: a line is nearly a requirement, a name stands twice, or a keyword stands outside of one.
    """
    found: dict[str, dict[str, str]] = {}
    problems = []
    for page in PAGES:
        lines = ["", *(directory / f"{page}.md").read_text(encoding="utf-8").splitlines(), ""]
        for number, line in enumerate(lines[1:-1], 1):
            where = f"{page}.md:{number}"
            match = REQUIREMENT.match(line)
            if match is None:
                if NAME.match(line) or KEYWORD.search(line):
                    problems.append(f"{where}: not in the form of a requirement: {line[:60]}")
                continue
            name, sentence, duty, keyword = match.groups()
            if lines[number - 1] or lines[number + 1]:
                problems.append(f"{where}: {name} does not stand between empty lines")
            if len(KEYWORD.findall(sentence)) != 1:
                problems.append(f"{where}: {name} has more than one keyword")
            if name in found:
                problems.append(f"{where}: {name} stands twice")
            found[name] = {
                "name": name,
                "sentence": sentence,
                "duty": duty.removeprefix("The "),
                "keyword": keyword,
                "page": f"{page}.md",
            }
    if problems:
        raise ValueError("\n".join(problems))
    return list(found.values())


def render(requirements: list[dict[str, str]]) -> str:
    """The text of requirements.json."""
    content: dict[str, Any] = {"source": "docs/spec", "requirements": requirements}
    return json.dumps(content, indent=1, ensure_ascii=False) + "\n"
