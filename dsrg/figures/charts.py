"""Charts as inline SVG. Color-blind people can tell the colors apart (Okabe and Ito), and lines have dashes too."""

import math
from typing import NamedTuple
from xml.etree.ElementTree import Element

import numpy as np

from dsrg.figures.markup import element

INK = ["#0072b2", "#d55e00", "#009e73", "#cc79a7"]
DASHES = ["none", "7 3", "2 3", "9 3 2 3"]
MOST_POINTS = 120  # of a line: more cannot be told apart at this size
LEFT, RIGHT, TOP, BOTTOM = 44, 10, 8, 24  # margins, pixels


class Line(NamedTuple):
    """A line of a chart: its name and its heights, NaN where it has none."""

    name: str
    values: list[float]


def line_chart(
    title: str, steps: list[int], lines: list[Line], *, size: tuple[int, int] = (330, 200), named: bool = True
) -> Element:
    """Lines over the steps of a training, at most four, with a legend if `named`. size: width and height in pixels.

    Heights start at 0; many steps are brought down to means of neighbors.
    """
    width, height = size
    heights = [thinned(line.values) for line in lines]
    places = thinned([float(step) for step in steps])
    finite = [value for values in heights for value in values if math.isfinite(value)]
    grid = ticks(max(finite, default=0))
    last = max(places, default=0) or 1

    def x(step: float) -> float:
        return LEFT + step / last * (width - LEFT - RIGHT)

    def y(value: float) -> float:
        return height - BOTTOM - value / grid[-1] * (height - TOP - BOTTOM)

    drawn = []
    for tick in grid:
        drawn.append(element("line", x1=LEFT, x2=width - RIGHT, y1=y(tick), y2=y(tick), class_="grid"))
        drawn.append(element("text", f"{tick:g}", x=LEFT - 5, y=y(tick) + 4, text_anchor="end"))
    drawn.append(element("text", "0", x=x(0), y=height - 7))
    drawn.append(element("text", f"step {steps[-1] if steps else 0}", x=width - RIGHT, y=height - 7, text_anchor="end"))
    for values, ink, dash in zip(heights, INK, DASHES, strict=False):
        points = [f"{x(step):.1f},{y(value):.1f}" for step, value in zip(places, values, strict=True) if value == value]
        line = {"fill": "none", "stroke": ink, "stroke_width": 2, "stroke_dasharray": dash}
        drawn.append(element("polyline", points=" ".join(points), **line))
    view = f"0 0 {width} {height}"
    chart = element("svg", *drawn, viewBox=view, width=width, height=height, role="img", aria_label=title)
    caption = element("figcaption", element("b", title), legend(lines) if named and len(lines) > 1 else None)
    return element("figure", caption, chart, class_="chart", style=f"width: {width}px")


def legend(lines: list[Line]) -> Element:
    """A sample of each line and its name."""
    entries = []
    for line, ink, dash in zip(lines, INK, DASHES, strict=False):
        stroke = {"stroke": ink, "stroke_width": 3, "stroke_dasharray": dash}
        sample = element("svg", element("line", x1=0, x2=26, y1=5, y2=5, **stroke), width=26, height=10)
        entries.append(element("span", sample, " " + line.name))
    return element("span", *entries, class_="legend")


def bar(value: float, *, mark: float | None = None) -> Element:
    """A bar from 0 to 1 that is as wide as its cell, and a mark for another value."""
    drawn = [element("rect", width=100 * _shown(value), height=10, fill=INK[0])]
    if mark is not None and math.isfinite(mark):
        drawn.append(element("rect", x=100 * _shown(mark) - 0.75, width=1.5, height=10, fill=INK[1]))
    return element("svg", *drawn, viewBox="0 0 100 10", preserveAspectRatio="none", class_="bar", aria_hidden="true")


def shade(share: float) -> str:
    """Colors of a table's cell as CSS: the darker the blue, the larger the share in 0..1; white text on dark."""
    light, dark = np.array([247, 251, 255]), np.array([8, 48, 107])
    red, green, blue = (light + _shown(share) ** 0.7 * (dark - light)).round().astype(int)
    return f"background: rgb({red}, {green}, {blue}); color: {'#fff' if _shown(share) > 0.54 else '#000'}"


def ticks(highest: float) -> list[float]:
    """Two to five round heights from 0, the last at or above the highest.

    >>> ticks(0.87), ticks(4.2)
    ([0.0, 0.5, 1.0], [0.0, 2.0, 4.0, 6.0])
    """
    if highest <= 0:
        return [0.0, 1.0]
    power = 10.0 ** math.floor(math.log10(highest))
    step = next(factor * power for factor in (0.2, 0.5, 1, 2, 5) if highest <= 4 * factor * power)
    return [round(step * number, 12) for number in range(math.ceil(highest / step - 1e-9) + 1)]


def thinned(values: list[float]) -> list[float]:
    """At most MOST_POINTS values: means of neighbors, equally many each but for the last."""
    every = math.ceil(len(values) / MOST_POINTS)
    return [float(np.mean(values[start : start + every])) for start in range(0, len(values), every or 1)]


def _shown(share: float) -> float:
    return min(max(share, 0.0), 1.0) if math.isfinite(share) else 0.0
