"""Measures of seeds over both thresholds, in one picture."""

from pathlib import Path
from textwrap import wrap

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from dsrg.files import atomic_file

COLUMNS = 4
NAMES = {"fg_thresh": "seeds.fg_thresh", "bg_thresh": "seeds.bg_thresh"}


def draw_advice(path: Path, found: dict) -> None:
    """What `dsrg.advise.sweep.findings` found: curves of what each threshold tells, then a panel for each measure.

    The range advised is shaded or framed, the best marked by a ring and the pair of params.yaml by a cross.
    """
    rows = -(-(1 + len(found["measures"])) // COLUMNS)
    figure = Figure(figsize=(4 * COLUMNS, 3.7 * rows + 0.7), layout="constrained")
    curves, *panels = figure.subplots(rows, COLUMNS, squeeze=False).ravel()
    _draw_curves(curves, found)
    for axes, (name, values) in zip(panels, found["measures"].items(), strict=False):
        _draw_measure(axes, found, name, np.array(values, float))
    for axes in panels[len(found["measures"]) :]:
        axes.set_axis_off()
    figure.suptitle("\n".join(wrap(found["reason"], 190)), fontsize="medium")
    with atomic_file(path) as temporary:
        figure.savefig(temporary, format="png", dpi=100)


def _draw_curves(axes: Axes, found: dict) -> None:
    for color, style, (key, name) in zip(("C0", "C1"), ("-", "--"), NAMES.items(), strict=True):
        bits, error = (np.array(found["information"][key][part]) for part in ("bits", "error"))
        axes.plot(found[key], bits, style, color=color, label=name)
        axes.fill_between(found[key], bits - error, bits + error, color=color, alpha=0.2, linewidth=0)
        if found["advised"]:
            axes.axvspan(*found["advised"]["range"][key], color=color, alpha=0.1, linewidth=0)
            best = found["advised"]["best"][key]
            axes.plot([best], [bits[found[key].index(best)]], "o", color=color, markersize=8, fillstyle="none")
    axes.set_title("information\nbits that each map above its threshold tells of the other", fontsize="small")
    axes.set_xlabel("threshold")
    axes.set_ylim(bottom=0)
    axes.legend(fontsize="x-small")


def _draw_measure(axes: Axes, found: dict, name: str, values: NDArray[np.float64]) -> None:
    drawn = axes.pcolormesh(found["bg_thresh"], found["fg_thresh"], values, cmap="viridis")
    axes.figure.colorbar(drawn, ax=axes)
    axes.set_title(f"{name}\n{found['meaning'][name]}", fontsize="small")
    axes.set_xlabel(NAMES["bg_thresh"])
    axes.set_ylabel(NAMES["fg_thresh"])
    _mark(axes, found["params"], "x")
    if found["advised"]:
        _mark(axes, found["advised"]["best"], "o")
        (left, right), (low, high) = (found["advised"]["range"][key] for key in ("bg_thresh", "fg_thresh"))
        for color, width in (("black", 3.5), ("white", 1.5)):
            axes.add_patch(Rectangle((left, low), right - left, high - low, fill=False, color=color, linewidth=width))


def _mark(axes: Axes, pair: dict[str, float], marker: str) -> None:
    """A sign in white on black, to be seen on any color; a ring where it is `o`."""
    place = [pair["bg_thresh"]], [pair["fg_thresh"]]
    for color, width in (("black", 4), ("white", 1.5)):
        axes.plot(*place, marker, color=color, markersize=9, markeredgewidth=width, fillstyle="none", clip_on=False)
