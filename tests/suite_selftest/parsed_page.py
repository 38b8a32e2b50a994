"""A page of the report taken apart, for tests that look for what is in it."""

from __future__ import annotations

from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path

import samples

from anyserve_conformance import report

VOID = {"meta", "link", "br", "img", "input", "hr", "wbr"}


@dataclass
class Element:
    tag: str
    attributes: dict[str, str]
    parent: Element | None
    pieces: list[str] = field(default_factory=list)

    @property
    def text(self) -> str:
        return "".join(self.pieces)


class ParsedPage(HTMLParser):
    """The elements of a page, each with its whole text. Tags that do not nest are an error."""

    def __init__(self) -> None:
        super().__init__()
        self.elements: list[Element] = []
        self._open: list[Element] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        element = Element(tag, {name: value or "" for name, value in attrs}, self._open[-1] if self._open else None)
        self.elements.append(element)
        if tag not in VOID:
            self._open.append(element)

    def handle_endtag(self, tag: str) -> None:
        assert self._open, f"</{tag}> closes nothing"
        assert self._open[-1].tag == tag, f"</{tag}> stands in <{self._open[-1].tag}>"
        self._open.pop()

    def handle_data(self, data: str) -> None:
        for element in self._open:
            element.pieces.append(data)

    def all(self, tag: str, **attributes: str) -> list[Element]:
        found = (element for element in self.elements if element.tag == tag)
        return [one for one in found if all(one.attributes.get(name) == value for name, value in attributes.items())]

    def classed(self, tag: str, name: str) -> list[Element]:
        return [one for one in self.all(tag) if name in one.attributes.get("class", "").split()]

    def within(self, outer: Element) -> list[Element]:
        return [one for one in self.elements if one.parent and (one.parent is outer or one.parent.parent is outer)]

    def finish(self) -> None:
        self.close()
        assert not self._open, f"<{self._open[-1].tag}> is not closed"


def parse(page: str) -> ParsedPage:
    parsed = ParsedPage()
    parsed.feed(page)
    parsed.finish()
    return parsed


def page_of(directory: Path, *runs: list[samples.Record]) -> str:
    """The page of these runs, which also stands in `report.html`."""
    read = [report.read_run(samples.write(directory / f"{i}.jsonl", run)) for i, run in enumerate(runs)]
    output = directory / "report.html"
    report.write_html(read, output)
    return output.read_text(encoding="utf-8")
