"""Reading HTML tables, however broken, into trees of rows and cells. Linear in the length of the text."""

from __future__ import annotations

import html
import re
from dataclasses import dataclass, field

_TAG = re.compile(r"<(/?)([a-zA-Z][a-zA-Z0-9]*)([^<>]*)>")
_SPAN = re.compile(r"\b(colspan|rowspan)\s*=\s*[\"']?\s*(\d{1,4})", re.IGNORECASE)
_WHITE_SPACE = re.compile(r"\s+")
_SECTIONS = ("thead", "tbody", "tfoot")
_CELLS = ("td", "th")
_ENDS = {
    "table": ("table",),
    "tr": ("tr",),
    **dict.fromkeys(_SECTIONS, _SECTIONS),
    **dict.fromkeys(_CELLS, _CELLS),
}
"""For each kind of node, what its closing tag and a following node of its kind close."""


@dataclass
class Node:
    """A table, section, row or cell."""

    tag: str
    colspan: int = 1
    rowspan: int = 1
    text: str = ""
    children: list[Node] = field(default_factory=list)

    @property
    def is_cell(self) -> bool:
        """Whether it holds text."""
        return self.tag in _CELLS


def parse_tables(text: str) -> list[Node]:
    """The tables in `text`, outermost ones.

    Rows, cells and tables that are not closed end where HTML lets them end. Tags inside cells other than
    those of tables are ignored, `<br>` is a space. Text outside cells is ignored.

    >>> table = parse_tables("<table><tr><th>a &amp; b<td colspan=2><b>1</b><br>2</table>")[0]
    >>> [(cell.tag, cell.colspan, cell.text) for cell in table.children[0].children]
    [('th', 1, 'a & b'), ('td', 2, '1 2')]
    >>> parse_tables("no table <td>1</td>")
    []
    """
    tables: list[Node] = []
    stack: list[Node] = []
    pieces: list[list[str]] = []  # the text of each node in the stack
    depth: dict[str, int] = {}  # how many of each kind are open, so that stray closing tags cost nothing

    def close_one() -> None:
        node, parts = stack.pop(), pieces.pop()
        depth[node.tag] -= 1
        if node.is_cell:
            node.text = _WHITE_SPACE.sub(" ", html.unescape("".join(parts))).strip()

    def close(tags: tuple[str, ...]) -> None:
        """Closes the innermost of `tags` and what is open inside; nothing outside the innermost table."""
        if not any(depth.get(tag) for tag in tags):
            return
        for position in range(len(stack) - 1, -1, -1):
            if stack[position].tag in tags:
                while len(stack) > position:
                    close_one()
                return
            if stack[position].tag == "table":
                return

    def open_one(node: Node) -> None:
        if stack:
            stack[-1].children.append(node)
        else:
            tables.append(node)
        stack.append(node)
        pieces.append([])
        depth[node.tag] = depth.get(node.tag, 0) + 1

    position = 0
    for match in _TAG.finditer(text):
        if stack:
            pieces[-1].append(text[position : match.start()])
        position = match.end()
        closing, tag = match.group(1), match.group(2).lower()
        if tag not in _ENDS:
            if tag == "br" and stack:
                pieces[-1].append(" ")
        elif closing:
            close(_ENDS[tag])
        elif tag == "table":
            # Between rows there is no place for a table; inside a cell there is.
            if not stack or stack[-1].is_cell:
                open_one(Node("table"))
        elif stack:
            if tag in _CELLS:
                close(_CELLS)
                if stack[-1].tag != "tr":
                    open_one(Node("tr"))
            elif tag == "tr":
                close(("tr",))
            else:
                close(_SECTIONS)
                close(("tr",))
            spans = {name.lower(): max(1, int(number)) for name, number in _SPAN.findall(match.group(3))}
            open_one(Node(tag, spans.get("colspan", 1), spans.get("rowspan", 1)))
    if stack:
        pieces[-1].append(text[position:])
    while stack:
        close_one()
    return tables
