"""results/report.html: one page about one run, whole in itself, the same for the same run.

It holds no time of a clock: two runs with the same params give the same page. `with_times` puts times in for a copy.
"""

import csv
import json
import math
from base64 import b64encode
from io import BytesIO, StringIO
from pathlib import Path
from statistics import fmean

import matplotlib
import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from matplotlib.figure import Figure
from ruamel.yaml import YAML

from dsrg.data.images import read_image
from dsrg.data.palette import voc_palette
from dsrg.errors import InputError
from dsrg.figures.overlays import jpeg
from dsrg.files import read_text

SCORE_ROWS = {
    ("dsrg", "miou"): "DSRG",
    ("dsrg", "miou_crf"): "DSRG + CRF",
    ("retrain", "miou"): "retrained",
    ("retrain", "miou_crf"): "retrained + CRF",
}
BEST_WORST_COUNT = 6  # best and worst images, each
STRIPS = 3  # images whose growth is shown
MATRIX_MOST = 40  # classes in the confusion matrix; with more, a list says more
CONFUSIONS = 12  # lines of that list
MOST_POINTS = 120  # of a line: more cannot be told apart at this size
STYLES = {"solid": "#0072b2", "dashed": "#d55e00", "dotted": "#009e73", "dashdot": "#cc79a7"}  # Okabe and Ito's colors
CLASS_LINES = ("grown", "seeds", "agreed")  # in the charts of single classes
CURVES = {
    "Share of labeled pixels": {
        "foreground": "grown, classes",
        "background": "grown, background",
        "seed_foreground": "seeds, classes",
        "seed_background": "seeds, background",
    },
    "Share of seeds that the network agrees with": {"agreement": "agreement"},
    "Share of pixels that the network gives to": {
        "predicted_background": "background",
        "predicted_tagged": "tagged",
        "predicted_absent": "absent",
    },
    "Learning rate": {"lr": "lr"},
}
UNTIMED = Markup(
    "<p>Not in this file, which is the same for the same run: <code>dsrg report --out FILE</code> makes a copy that "
    "has it.</p>"
)


def report_page(results: Path, *, classes: list[str], images: dict[str, int], params: dict, versions: dict) -> str:
    """The page of what the stages have left in `results`.

    classes: names of 1..C. images: how many, by what they are for. params: all that the run was made with, as in
    params.yaml. versions: of what it was made by, by name.
    """
    evaluation, seeding = results / "evaluate", results / "make_seeds"
    scores = json.loads(read_text(evaluation / "metrics.json"))
    colors = (f"rgb({red}, {green}, {blue})" for red, green, blue in voc_palette())
    yaml = StringIO()
    YAML().dump(params, yaml)
    loader = FileSystemLoader(Path(__file__).parent)
    pages = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    pages.filters |= {"percent": lambda value: _percent(_number(value)), "shade": shade, "jpeg": _jpeg}
    return pages.get_template("report.html").render(
        title=f"DSRG: mIoU {_percent(_number(scores['retrain']['miou_crf']))}",
        results=results,
        classes=classes,
        colors=dict(zip(["background", *classes], colors, strict=False)),
        images=images,
        params=params,
        params_yaml=yaml.getvalue(),
        versions=versions,
        ladder=_ladder(scores),
        absent=scores["retrain"]["absent"],
        score_names=[*reversed(SCORE_ROWS.values())],
        iou=_class_scores(_rows(evaluation / "per_class.csv")),
        most_columns=MATRIX_MOST,
        **_confusion(_rows(evaluation / "confusion.csv")),
        best_worst=_best_worst(_rows(evaluation / "per_image.csv")),
        seeds=json.loads(read_text(seeding / "metrics.json")),
        class_seeds=_class_seeds(_rows(seeding / "per_class.csv")),
        **_growth(results / "train_dsrg"),
        untimed=UNTIMED,
    )


def with_times(page: str, seconds: dict[str, float]) -> str:
    """The same page with a table of how long each stage took, instead of the remark that it has none.

    Raises InputError when it has no such remark.
    """
    if UNTIMED not in page:
        raise InputError("report.html: has no place for times; run `dvc repro evaluate`")
    row = Markup('<tr><th scope="row">{}</th><td>{:,.0f}</td></tr>\n')
    rows = Markup().join(row.format(*one) for one in [*seconds.items(), ("all", sum(seconds.values()))])
    return page.replace(UNTIMED, f"<table><thead><tr><th>stage</th><th>seconds</th></tr></thead>\n{rows}</table>")


def _ladder(scores: dict) -> list[list]:
    rows, before = [], math.nan
    for (network, name), title in SCORE_ROWS.items():
        miou, accuracy = (_number(scores[network][key]) for key in (name, name.replace("miou", "pixel_accuracy")))
        gain = f"{100 * (miou - before):+.1f}" if math.isfinite(miou - before) else ""
        rows.append([title, [miou], _percent(miou), gain, _percent(accuracy)])
        before = miou
    return rows


def _class_scores(rows: list[dict]) -> list[list]:
    columns = ["retrain_crf", "retrain", "dsrg_crf", "dsrg"]
    scores = [[_number(row[column]) for column in columns] for row in rows]
    return [[row["class"], [own[0], own[-1]], *map(_percent, own)] for row, own in zip(rows, scores, strict=True)]


def _confusion(rows: list[dict]) -> dict:
    """Of the pixels of a class, the shares of what they were called by the final network with CRF."""
    shares: dict[str, dict[str, float]] = {}
    for row in rows:
        shares.setdefault(row["actual"], {})[row["predicted"]] = float(row["share"])
    seen = {name for own in shares.values() for name, share in own.items() if share >= 0.005}
    called = [name for name in dict.fromkeys(row["predicted"] for row in rows) if name in seen]  # no empty columns
    wrong = [(share, a, b) for a, own in shares.items() for b, share in own.items() if a != b]
    wrong.sort(key=lambda one: one[0], reverse=True)
    largest = [[f"{actual} called {predicted}", _percent(share)] for share, actual, predicted in wrong[:CONFUSIONS]]
    return {"confusion": shares, "predicted": called, "largest_confusions": largest}


def _best_worst(rows: list[dict]) -> dict[str, dict[str, float]]:
    """IoU of the images with the highest and the lowest one, by id."""
    iou = {row["id"]: _number(row["retrain_crf"]) for row in rows if row["retrain_crf"]}
    ranked = sorted(iou, key=iou.get, reverse=True)
    chosen = {"Best": ranked[:BEST_WORST_COUNT], "Worst": ranked[::-1][:BEST_WORST_COUNT]}
    return {heading: {name: iou[name] for name in ids} for heading, ids in chosen.items()}


def _class_seeds(rows: list[dict]) -> list[list]:
    columns = ["class", "images", "images_unseeded", "coverage", "conflicts"]
    found = [[row[column] for column in columns] for row in rows if int(row["images"])]
    return [[*first, _percent(_number(coverage)), conflicts] for *first, coverage, conflicts in found]


def _growth(folder: Path) -> dict:
    curves = _rows(folder / "curves.tsv")
    steps = [int(row["step"]) for row in curves]
    losses = {name: name.replace("_", " ") for name in curves[0] if name.endswith("loss")}
    charts = {
        title: line_chart(steps, {shown: _column(curves, name) for name, shown in names.items()})
        for title, names in ({"Losses": losses} | CURVES).items()
    }
    by_class: dict[str, list[dict]] = {}
    for row in _rows(folder / "per_class.tsv"):
        by_class.setdefault(row["class"], []).append(row)
    small = {}
    for name, rows in by_class.items():
        lines = {column: _column(rows, column) for column in CLASS_LINES}
        if any(lines["grown"]):  # of a class that no image shows there is nothing to see
            small[name] = line_chart(steps, lines, size=(240, 130), legend=False)
    keys = {name: f"{style} {color}" for name, (style, color) in zip(CLASS_LINES, STYLES.items(), strict=False)}
    strips = sorted((folder / "growth").glob("*.png"))[:STRIPS]
    return {"charts": charts, "class_charts": small, "line_styles": keys, "strips": strips}


def line_chart(
    steps: list[int], lines: dict[str, list[float]], *, size: tuple[int, int] = (330, 200), legend: bool = True
) -> str:
    """Lines by name over the steps of a training, at most four, NaN where one has no height, as SVG in base64.

    Heights start at 0; many steps are brought down to means of neighbors. size: width and height in pixels of CSS.
    """
    buffer = BytesIO()
    with matplotlib.rc_context({"svg.hashsalt": "dsrg", "svg.fonttype": "none", "font.size": 7.5}):
        figure = Figure(figsize=(size[0] / 96, size[1] / 96), layout="constrained")
        axes = figure.subplots()
        for (name, values), (style, color) in zip(lines.items(), STYLES.items(), strict=False):
            axes.plot(thinned(steps), thinned(values), linestyle=style, color=color, label=name)
        axes.set_ylim(bottom=0)
        axes.set_xlabel("step")
        axes.locator_params(nbins=4)
        axes.grid(color="#ddd")
        axes.spines[:].set_visible(False)
        if legend and len(lines) > 1:
            axes.legend(fontsize="small", frameon=False)
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    return b64encode(buffer.getvalue()).decode()


def thinned(values: list[float]) -> list[float]:
    """At most MOST_POINTS values: means of neighbors, equally many each but for the last."""
    every = math.ceil(len(values) / MOST_POINTS)
    return [fmean(values[start : start + every]) for start in range(0, len(values), every or 1)]


def shade(share: float) -> str:
    """Colors of a table's cell as CSS: the darker the blue, the larger the share in 0..1; white text on dark."""
    light, dark = np.array([247, 251, 255]), np.array([8, 48, 107])
    red, green, blue = (light + share**0.7 * (dark - light)).round().astype(int)
    return f"background: rgb({red}, {green}, {blue}); color: {'#fff' if share > 0.54 else '#000'}"


def _jpeg(path: Path) -> dict:
    pixels = read_image(path)
    data = b64encode(jpeg(pixels, quality=85)).decode()
    return {"data": data, "height": pixels.shape[0], "width": pixels.shape[1]}


def _rows(path: Path) -> list[dict]:
    """Lines of a CSV or, by its name, a TSV."""
    return list(csv.DictReader(StringIO(read_text(path)), delimiter="\t" if path.suffix == ".tsv" else ","))


def _column(rows: list[dict], name: str) -> list[float]:
    return [_number(row[name]) for row in rows]


def _number(value: object) -> float:
    """What null and an empty cell stand for is NaN."""
    return math.nan if value in (None, "") else float(value)


def _percent(share: float) -> str:
    return f"{100 * share:.1f}" if math.isfinite(share) else "-"
