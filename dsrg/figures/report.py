"""results/report.html: one page about one run, whole in itself, the same for the same run.

It holds no time of a clock: two runs with the same params give the same page. `with_times` puts times in for a copy.
"""

import csv
import json
import math
from io import StringIO
from pathlib import Path
from xml.etree.ElementTree import Element

from ruamel.yaml import YAML

from dsrg.data.images import read_image
from dsrg.data.palette import voc_palette
from dsrg.errors import InputError
from dsrg.figures.charts import Line, bar, legend, line_chart, shade
from dsrg.figures.markup import document, element, html, picture, table, wide
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
PREDICTED = ("background", "tagged", "absent")  # curves of what the network predicts
CONFUSIONS = 12  # lines of that list

STYLE = """
* { box-sizing: border-box; }
body { max-width: 1120px; margin: 0 auto; padding: 8px 16px 60px; font: 15px/1.45 system-ui, sans-serif; color: #111;
  background: #fff; }
h1 { font-size: 22px; margin: 16px 0 4px; }
h2 { font-size: 18px; margin: 36px 0 8px; border-bottom: 1px solid #bbb; }
h3 { font-size: 15px; margin: 18px 0 6px; }
p { max-width: 46em; margin: 6px 0; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: 2px 8px; text-align: right; font-weight: normal; white-space: nowrap; }
thead th { border-bottom: 1px solid #bbb; font-weight: 600; vertical-align: bottom; white-space: normal; }
tbody th, thead th:first-child { text-align: left; }
.bars { width: 100%; max-width: 900px; }
.bars td:nth-child(2) { width: 60%; min-width: 110px; }
.bar { display: block; width: 100%; height: 14px; background: #eee; }
.swatch { display: inline-block; width: 12px; height: 12px; margin-right: 6px; border: 1px solid #111; }
.matrix { font-size: 12px; }
.matrix td { padding: 2px 4px; min-width: 34px; text-align: center; }
.matrix thead th:not(:first-child) { writing-mode: vertical-rl; padding: 4px 2px; text-align: left; }
.flow { display: flex; flex-wrap: wrap; gap: 12px 18px; align-items: flex-start; }
figure { margin: 0; max-width: 100%; }
figcaption { font-size: 13px; overflow-wrap: anywhere; }
img, .chart svg { max-width: 100%; height: auto; }
.legend { display: block; }
.legend span { margin-right: 12px; white-space: nowrap; }
svg text { font-size: 11px; fill: #333; }
.grid { stroke: #ddd; }
pre { overflow-x: auto; padding: 10px; background: #f4f4f4; font-size: 13px; }
summary { cursor: pointer; }
"""


def report_page(results: Path, *, classes: list[str], images: dict[str, int], params: dict, versions: dict) -> str:
    """The page of what the stages have left in `results`.

    Args:
        classes: names of the classes 1..C.
        images: how many there are, by split.
        params: all that the run was made with, as in params.yaml.
        versions: of what it was made by, by name.
    """
    evaluation, training, seeding = results / "evaluate", results / "train_dsrg", results / "make_seeds"
    scores, per_class = json.loads(read_text(evaluation / "metrics.json")), _rows(evaluation / "per_class.csv")
    counts = ", ".join(f"{count} {split}" for split, count in images.items())
    return document(
        f"DSRG: mIoU {_percent(_number(scores['retrain']['miou_crf']))}",
        STYLE,
        element("h1", "DSRG: results of a run"),
        element("p", f"{len(classes)} classes; images: {counts}; backbone {params['network']['backbone']}."),
        _section("Ladder", *_ladder(scores)),
        _section("IoU of each class", *_per_class(per_class, classes)),
        _section("Confusion", *_confusion(_rows(evaluation / "confusion.csv"))),
        _section("Best and worst images", *_ends(_rows(evaluation / "per_image.csv"), evaluation / "best_worst")),
        _section("Seeds", *_seeds(seeding, classes)),
        _section("Growth", *_growth(training)),
        _section("Params", element("details", element("summary", "All params"), element("pre", _yaml(params)))),
        _section("Versions", table(["", "version"], [[name, number] for name, number in versions.items()])),
        _section("Time of each stage", _untimed()),
    )


def with_times(page: str, seconds: dict[str, float]) -> str:
    """The same page with a table of how long each stage took, instead of the remark that it has none.

    Raises InputError when it has no such remark.
    """
    remark = html(_untimed())
    if remark not in page:
        raise InputError("report.html: has no place for times; run `dvc repro evaluate`")
    rows = [[name, f"{value:,.0f}"] for name, value in [*seconds.items(), ("all", sum(seconds.values()))]]
    return page.replace(remark, html(table(["stage", "seconds"], rows)))


def _untimed() -> Element:
    return element(
        "p", "Not in this file, which is the same for the same run: `dsrg report --out FILE` makes a copy that has it."
    )


def _section(title: str, *children: Element | str | None) -> Element:
    return element("section", element("h2", title), *children)


def _ladder(scores: dict) -> list[Element]:
    rows, before = [], math.nan
    for (network, name), title in SCORE_ROWS.items():
        values = scores[network]
        miou, accuracy = (_number(values[key]) for key in (name, name.replace("miou", "pixel_accuracy")))
        gain = f"{100 * (miou - before):+.1f}" if math.isfinite(miou - before) else ""
        rows.append([title, bar(miou), _percent(miou), gain, _percent(accuracy)])
        before = miou
    remarks = [element("p", "mIoU: mean over background and the classes in the evaluated masks, in percent.")]
    if absent := scores["retrain"]["absent"]:
        remarks.append(element("p", f"Classes that no mask shows: {', '.join(absent)}."))
    header = ["network", "", "mIoU", "gain", "pixels right"]
    return [table(header, rows, class_="bars"), *remarks]


def _per_class(rows: list[dict], classes: list[str]) -> list[Element]:
    columns = ["retrain_crf", "retrain", "dsrg_crf", "dsrg"]
    lines = []
    for row in rows:
        values = [_number(row[column]) for column in columns]
        lines.append([_name(row["class"], classes), bar(values[0], mark=values[-1]), *map(_percent, values)])
    header = ["class", "", *reversed(SCORE_ROWS.values())]
    remark = "Bar: retrained + CRF; mark: DSRG alone. The colors are those of the overlays."
    return [element("p", remark), table(header, lines, class_="bars")]


def _confusion(rows: list[dict]) -> list[Element]:
    """Of the pixels of a class, in percent, what they were called by the final network with CRF."""
    shares = {(row["actual"], row["predicted"]): float(row["share"]) for row in rows}
    called = {predicted for (_, predicted), share in shares.items() if share >= 0.005}  # others would be empty columns
    names = [name for name in dict.fromkeys(row["predicted"] for row in rows) if name in called]
    worst = sorted((pair for pair in shares if pair[0] != pair[1]), key=shares.get, reverse=True)[:CONFUSIONS]
    listed = [[f"{actual} called {predicted}", _percent(shares[actual, predicted])] for actual, predicted in worst]
    remark = element("p", "Of the pixels of a class (line), how many percent the final network with CRF calls what.")
    largest = [element("h3", "Largest confusions"), table(["", "percent"], listed)]
    if len(names) > MATRIX_MOST:
        return [remark, *largest]
    lines = []
    for actual in dict.fromkeys(row["actual"] for row in rows):
        line = element("tr", element("th", actual, scope="row"))
        for predicted in names:
            share = shares[actual, predicted]
            line.append(element("td", f"{100 * share:.0f}" if share >= 0.005 else "", style=shade(share)))
        lines.append(line)
    head = element("tr", element("th", "is / is called"), *(element("th", name, scope="col") for name in names))
    matrix = element("table", element("thead", head), element("tbody", *lines), class_="matrix")
    return [remark, wide(matrix), *largest]


def _ends(rows: list[dict], folder: Path) -> list[Element]:
    """Images, ground truth and prediction of the images with the highest and the lowest IoU."""
    order = {row["id"]: _number(row["retrain_crf"]) for row in rows if row["retrain_crf"]}
    ranked = sorted(order, key=order.get, reverse=True)
    found = [
        element(
            "p",
            "Image, ground truth, and the prediction of the final network with CRF; IoU: mean over the "
            "classes in mask or prediction.",
        )
    ]
    for title, ids in (("Best", ranked[:BEST_WORST_COUNT]), ("Worst", ranked[::-1][:BEST_WORST_COUNT])):
        figures = [
            element(
                "figure",
                picture(read_image(folder / f"{name}.png"), alt=""),
                element("figcaption", f"{name}: IoU {_percent(order[name])} %"),
            )
            for name in ids
        ]
        found += [element("h3", title), element("div", *figures, class_="flow")]
    return found


def _seeds(folder: Path, classes: list[str]) -> list[Element]:
    metrics = json.loads(read_text(folder / "metrics.json"))
    told = {
        "cells labelled": metrics["coverage"],
        "... as a class": metrics["foreground"],
        "... as background": metrics["background"],
        "cells that several classes claim": metrics["conflicts"],
        "tags with a seed": metrics["tags_seeded"],
    }
    rows = [
        [
            _name(row["class"], classes),
            row["images"],
            row["images_unseeded"],
            _percent(_number(row["coverage"])),
            row["conflicts"],
        ]
        for row in _rows(folder / "per_class.csv")
        if int(row["images"])
    ]
    unseeded = metrics["unseeded_classes"]
    sheet = picture(read_image(folder / "contact_sheet.png"), alt="seeds of the best, the worst and some random images")
    return [
        table(["seeds", "percent"], [[name, _percent(_number(value))] for name, value in told.items()]),
        element("p", f"Tagged classes without any seed: {', '.join(unseeded)}.") if unseeded else None,
        *_points(metrics.get("points"), classes),
        element("h3", "Each class"),
        table(["class", "images", "without a seed", "cells, percent", "disputed cells"], rows),
        element("h3", "Best, worst and random images"),
        sheet,
    ]


def _points(counts: dict | None, classes: list[str]) -> list[Element]:
    """What people set by hand; nothing where there is none of it."""
    if counts is None:
        return []
    told = (
        "{points} points, {strokes} strokes and {erasures} erasures on {images} images, which label {cells} cells. "
        "Unlabelled for as many points of two classes: {ties}."
    ).format(**counts)
    rows = [[_name(name, classes), str(count)] for name, count in counts["labels"].items()]
    return [element("h3", "Set by hand"), element("p", told), table(["class", "points and strokes"], rows)]


def _growth(folder: Path) -> list[Element]:
    curves = _rows(folder / "curves.tsv")
    steps = [int(row["step"]) for row in curves]
    losses = [name for name in curves[0] if name.endswith("loss")]

    def chart(title: str, names: dict[str, str]) -> Element:
        return line_chart(title, steps, [Line(shown, _column(curves, name)) for name, shown in names.items()])

    shares = {"foreground": "grown, classes", "background": "grown, background"}
    shares |= {"seed_foreground": "seeds, classes", "seed_background": "seeds, background"}
    charts = [
        chart("Losses", {name: name.replace("_", " ") for name in losses}),
        chart("Share of labelled pixels", shares),
        chart("Share of seeds that the network agrees with", {"agreement": "agreement"}),
        chart("Share of pixels that the network gives to", {f"predicted_{name}": name for name in PREDICTED}),
        chart("Learning rate", {"lr": "lr"}),
    ]
    by_class: dict[str, list[dict]] = {}
    for row in _rows(folder / "per_class.tsv"):
        by_class.setdefault(row["class"], []).append(row)
    small = []
    for name, rows in by_class.items():
        lines = [Line(column, _column(rows, column)) for column in ("grown", "seeds", "agreed")]
        if any(lines[0].values):  # of a class that no image shows there is nothing to see
            small.append(line_chart(name, steps, lines, size=(240, 130), named=False))
    strips = [picture(read_image(path), alt=path.stem) for path in sorted((folder / "growth").glob("*.png"))[:STRIPS]]
    return [
        element("div", *charts, class_="flow"),
        element("h3", "Share of pixels labelled as each class"),
        element("p", "grown: what the network learned from; seeds: before they grew; agreed: seeds it predicts alike."),
        legend(lines),
        element("div", *small, class_="flow"),
        element("h3", "Growing seeds") if strips else None,
        *(wide(strip) for strip in strips),
    ]


def _name(name: str, classes: list[str]) -> Element:
    red, green, blue = voc_palette()[["background", *classes].index(name)]
    swatch = element("span", "", class_="swatch", style=f"background: rgb({red}, {green}, {blue})")
    return element("span", swatch, name)


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


def _yaml(values: dict) -> str:
    text = StringIO()
    YAML().dump(values, text)
    return text.getvalue()
