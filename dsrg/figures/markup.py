"""HTML and SVG as trees: text and attributes are escaped when they are written, wherever they come from."""

from base64 import b64encode
from xml.etree.ElementTree import Element, SubElement, tostring

import cv2
import numpy as np
from numpy.typing import NDArray

Child = Element | str | None


def element(tag: str, *children: Child, **attributes: object) -> Element:
    """An element with text and elements in it; None is left out.

    Names of attributes: `class_` for words of Python, `stroke_width` for stroke-width. Floats get two decimals at most.

    >>> tostring(element("p", "a < b", element("b", "!"), class_="x")).decode()
    '<p class="x">a &lt; b<b>!</b></p>'
    """
    made = Element(tag, {name.rstrip("_").replace("_", "-"): _text(value) for name, value in attributes.items()})
    for child in children:
        if isinstance(child, Element):
            made.append(child)
        elif child is not None and len(made):
            made[-1].tail = (made[-1].tail or "") + child
        elif child is not None:
            made.text = (made.text or "") + child
    return made


def document(title: str, style: str, *body: Child) -> str:
    """A whole HTML page that asks for nothing: no script, no address of a font, an icon or anything else."""
    page = element("html", lang="en")
    head = SubElement(page, "head")
    head.append(element("meta", charset="utf-8"))
    head.append(element("meta", name="viewport", content="width=device-width, initial-scale=1"))
    head.append(element("link", rel="icon", href="data:,"))
    head.append(element("title", title))
    head.append(element("style", style))
    page.append(element("body", *body))
    return "<!DOCTYPE html>\n" + html(page) + "\n"


def html(tree: Element) -> str:
    """The text of a tree, as it stands in a page."""
    return tostring(tree, encoding="unicode", method="html")


def table(header: list[Child], rows: list[list[Child]], **attributes: object) -> Element:
    """A table; the first cell of a row is its head."""
    head = element("tr", *(element("th", cell, scope="col") for cell in header))
    lines = []
    for first, *others in rows:
        lines.append(element("tr", element("th", first, scope="row"), *(element("td", cell) for cell in others)))
    return wide(element("table", element("thead", head), element("tbody", *lines), **attributes))


def wide(content: Element) -> Element:
    """Something that can be moved sideways, by the keyboard too, where the window is too narrow for it."""
    return element("div", content, class_="wide", tabindex=0)


def picture(pixels: NDArray[np.uint8], *, alt: str) -> Element:
    """An image, RGB (H, W, 3), that is part of the page."""
    _, jpeg = cv2.imencode(".jpg", np.ascontiguousarray(pixels[..., ::-1]), [cv2.IMWRITE_JPEG_QUALITY, 85])
    height, width = pixels.shape[:2]
    data = f"data:image/jpeg;base64,{b64encode(jpeg).decode()}"
    return element("img", src=data, alt=alt, width=width, height=height)


def _text(value: object) -> str:
    return f"{value:.2f}".rstrip("0").rstrip(".") if isinstance(value, float) else str(value)
