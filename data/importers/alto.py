"""ALTO XML: a file for each page or several, lines with boxes or polygons, words as `String` elements."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from glyphrl.data.importers.base import Peek, ReadOptions, Record
from glyphrl.data.importers.pages import (
    Page,
    PageLine,
    Polygon,
    bounds,
    parse_points,
    read_pages,
    rectangle,
    write_pages,
)
from glyphrl.data.importers.xml_tree import Node, parse_xml, xml_attribute, xml_text
from glyphrl.data.problems import Problem, RowError
from glyphrl.data.sample import Sample

LOOKS_FOR = "ALTO XML, a file or a folder of them (alto, TextLine with String elements)"
SUFFIXES = (".xml", ".alto")
_NAMESPACE = "http://www.loc.gov/standards/alto/ns-v4#"


def detect(peek: Peek) -> bool:
    """Whether it is ALTO XML."""
    return b"<alto" in peek.markup or b":alto" in peek.markup


def read(path: Path, options: ReadOptions) -> Iterator[Record | Problem]:
    """The lines of a file, or of all files of a folder."""
    return read_pages(path, SUFFIXES, options, parse_pages)


def parse_pages(file: Path) -> Iterator[Page | Problem]:
    """The pages of a file.

    Raises:
        MalformedXmlError: The file cannot be read.
    """
    root = parse_xml(file)
    unit = next((node.text.strip() for node in root.walk("MeasurementUnit")), "pixel")
    if unit != "pixel":
        yield Problem("malformed_row", str(file), root.line, "MeasurementUnit", repr(unit), "'pixel'")
        return
    image = next((node.text.strip() for node in root.walk("fileName")), "")
    for page in root.walk("Page"):
        lines: list[PageLine | Problem] = []
        for number, node in enumerate(page.walk("TextLine"), start=1):
            try:
                name = node.attributes.get("ID", f"line-{number}")
                lines.append(PageLine(name, _text(node), _polygon(node), node.line))
            except RowError as error:
                lines.append(error.at(file, node.line))
        size = [_pixels(page, name) for name in ("WIDTH", "HEIGHT")] if "WIDTH" in page.attributes else []
        yield Page(file.stem, image, (size[0], size[1]) if size else None, lines)


def _pixels(node: Node, name: str) -> int:
    try:
        return round(float(node.attributes[name]))
    except (KeyError, ValueError, OverflowError):
        found = repr(node.attributes.get(name))
        raise RowError("malformed_row", name, found, "a number of pixels") from None


def _polygon(node: Node) -> Polygon:
    for shape in node.own("Shape"):
        for polygon in shape.own("Polygon"):
            return parse_points(polygon.attributes.get("POINTS", ""))
    left, top, width, height = (_pixels(node, name) for name in ("HPOS", "VPOS", "WIDTH", "HEIGHT"))
    return rectangle(left, top, width, height)


def _text(node: Node) -> str:
    """Words, with the spaces that the file names; where it names none, one between two words."""
    parts = node.own("String", "SP", "HYP")
    between = "" if any(part.name == "SP" for part in parts) else " "
    text = ""
    for part in parts:
        if part.name == "SP":
            text += " "
        elif part.name == "HYP":
            text += part.attributes.get("CONTENT", "-")
        else:
            text += (between if text else "") + part.attributes.get("CONTENT", "")
    return text


def write(samples: Sequence[Sample], path: Path, folder: Path) -> None:
    """Writes a folder with a file for each page."""
    write_pages(samples, path, folder, render, ".xml")


def render(image: str, size: tuple[int, int], lines: Sequence[PageLine]) -> str:
    """One page file."""
    rows = []
    for line in lines:
        left, top, right, bottom = bounds(line.polygon)
        box = f'HPOS="{left}" VPOS="{top}" WIDTH="{right - left}" HEIGHT="{bottom - top}"'
        points = " ".join(f"{x},{y}" for x, y in line.polygon)
        words = [
            f"<String {box} CONTENT={xml_attribute(word)}/>" if word else "" for word in line.text.split(" ")
        ]
        rows.append(
            f"          <TextLine ID={xml_attribute(line.name)} {box}>\n"
            f'            <Shape><Polygon POINTS="{points}"/></Shape>\n'
            f"            {'<SP/>'.join(words)}\n"
            "          </TextLine>\n"
        )
    width, height = size
    return (
        '<?xml version="1.0" encoding="UTF-8"?>\n'
        f'<alto xmlns="{_NAMESPACE}">\n  <Description>\n    <MeasurementUnit>pixel</MeasurementUnit>\n'
        f"    <sourceImageInformation><fileName>{xml_text(image)}</fileName></sourceImageInformation>\n"
        "  </Description>\n  <Layout>\n"
        f'    <Page ID="page" PHYSICAL_IMG_NR="1" WIDTH="{width}" HEIGHT="{height}">\n'
        '      <PrintSpace>\n        <TextBlock ID="block">\n'
        f"{''.join(rows)}        </TextBlock>\n      </PrintSpace>\n    </Page>\n  </Layout>\n</alto>\n"
    )
