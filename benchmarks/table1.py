"""The paper's Table 1 in one arena: methods that learn from tags alone, on the same images, network, steps and CRF.

    python -m benchmarks.table1 --recipe recipes/voc2012-mobilenet.yaml --set data.root=/data/VOC2012 --seeds 0 1 2

Only the supervision differs between rows; the published figures beside them do not come from such an arena. Rows are
DVC experiments, so stages that they share are computed once; needs a git repository with a commit. Writes
results/table1.md and results/table1.png, each row's figures to benchmarks/results/table1.json, and those of each run to
benchmarks/results/table1-RECIPE.json, from where an interrupted table goes on. --quick: a dozen steps on a dozen images
of the demo, to see that all rows run.
"""

from pathlib import Path
from typing import NamedTuple

import click
import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from benchmarks import RESULTS
from benchmarks.experiments import Experiments, mean_and_deviation, percent, recipe_in_place
from benchmarks.table2 import SEC, STATIC, save_figure
from dsrg.files import write_json, write_text
from dsrg.method.grid import STRIDE
from dsrg.params import load_params

QUICK = ["shapes.train=12", "shapes.val=4", "data.size=65", "network.head_channels=16", "seeds.overlays=2"]
QUICK += ["cam.steps=12", "dsrg.steps=12", "retrain.steps=12", "cam.batch=4", "dsrg.batch=4", "retrain.batch=4"]
QUICK += ["grow.start=3", "dsrg.watch_images=2"]


class Row(NamedTuple):
    """A method: its name in table1.json, the params it changes, the network reported, published mIoU on VOC val, test.

    rate: of the one branch of a `largefov` head, in cells of stride 8; None = the recipe's head. marks: numbers of the
    `REMARKS` that hold for it.
    """

    name: str
    title: str
    changes: list[str]
    published: tuple[float | None, float | None]
    marks: tuple[str, ...] = ()
    rate: int | None = None
    network: str = "dsrg"

    def all_changes(self, output_stride: int) -> list[str]:
        if self.rate is None:
            return self.changes
        cells = max(1, self.rate * STRIDE // output_stride)
        return [*self.changes, "network.head=largefov", f"network.rates=[{cells}]"]


class Published(NamedTuple):
    """A method of the paper's table that is not run, and why."""

    title: str
    published: tuple[float | None, float | None]
    why: str


def by(objective: str, *more: str) -> list[str]:
    return [f"dsrg.objective={objective}", *more]


PLAIN = [*STATIC, "dsrg.seed_loss=plain", "dsrg.boundary_loss=false"]
DCSM = ["seeds.maps=dcsm", "saliency.method=cam", "seeds.crf.use=replace", "seeds.crf.background=1.0"]
BFBP = ["seeds.fg_thresh=1.0", "seeds.crf.use=none", "saliency.with_cam=false"]  # seeds are background's alone
DCSP = [*PLAIN, "seeds.rule=harmonic", "seeds.crf.use=none"]
ADAPTED = ["pseudo_labels.crf=false", "pseudo_labels.tags_only=true", "retrain.init=dsrg", "retrain.loss=cross_entropy"]
EM_FIXED = ["weak.em_adapt.bg_bias=3.0", "weak.em_adapt.fg_bias=5.0"]

ROWS = [
    Row("mil", "MIL-FCN", by("mil"), (None, 25.7), ("a", "own-init")),
    Row("mil_rate6", "MIL-FCN, rate 6", by("mil"), (None, None), ("own-init",), rate=6),
    Row("mil_lse", "MIL, log-sum-exp", by("mil_lse"), (17.8, None), ("images",)),
    Row("mil_lse_ilp", "MIL-LSE, image-level prior", by("mil_lse", "evaluate.prior=lse"), (32.6, None), ("images",)),
    Row("em_fixed", "EM-Fixed", by("em_adapt", *EM_FIXED), (20.8, None)),
    Row("ccnn", "CCNN", by("ccnn"), (35.3, 35.6), ("b",)),
    Row("ccnn_rate6", "CCNN, rate 6", by("ccnn"), (None, None), rate=6),
    Row("em_adapt_rate12", "EM-Adapt, rate 12", by("em_adapt"), (30.2, None), ("fov",), rate=12),
    Row("em_adapt_rate6", "EM-Adapt, rate 6", by("em_adapt"), (38.2, 39.6), ("c", "fov"), rate=6),
    Row("dcsm", "DCSM's maps", [*PLAIN, *DCSM], (44.1, 45.1), ("trained", "mean", "unverified")),
    Row("bfbp", "BFBP", by("bfbp", *BFBP), (46.6, 48.0), ("mask", "unverified")),
    Row("sec", "SEC", SEC.changes, (50.7, 51.7)),
    Row("static", "static seeds, plain loss", [*STATIC, "dsrg.seed_loss=plain"], (52.5, None), ("saliency",)),
    Row("bsl", "static seeds, balanced loss", [*STATIC, "dsrg.seed_loss=balanced"], (53.6, None), ("saliency",)),
    Row("psl", "AE-PSL without erasing", by("psl"), (None, None), ("saliency", "unverified")),
    Row("ae_psl", "AE-PSL", by("psl", "cam.erase_rounds=3"), (55.0, 55.7), ("saliency", "unverified", "once")),
    Row("dcsp", "DCSP's rule for seeds", DCSP, (None, None), ("saliency",)),
    Row(
        "dcsp_adapted",
        "DCSP, a round on its own masks",
        [*DCSP, *ADAPTED],
        (58.6, 59.2),
        ("saliency", "vgg"),
        None,
        "retrain",
    ),
    Row("dsrg", "DSRG, first network", [], (57.6, None), ("saliency",)),
    Row("dsrg_retrained", "DSRG, retrained", [], (59.0, 60.4), ("saliency",), network="retrain"),
]

NOT_RUN = [
    Published("MIL-bb", (37.8, 37.0), "BING, learned from boxes; thresholds chosen on VOC's validation masks"),
    Published("MIL-seg", (42.0, 40.6), "MCG, learned from masks; thresholds chosen on VOC's validation masks (d)"),
    Published("SN_B", (41.9, 43.2), "MCG, learned from masks (d)"),
    Published("STC", (49.8, 51.2), "about 40,000 simple web images and learned saliency"),
    Published("TransferNet", (52.1, 51.2), "masks of sixty other classes"),
    Published("AF-SS", (52.6, 52.7), "its proposal network is not specified well enough"),
    Published("Combining Cues", (52.8, 53.7), "no constants known"),
    Published("AF-MCG", (54.3, 55.5), "MCG, learned from masks"),
    Published("GuidedSeg", (55.7, 56.7), "its rule for seeds is not built here; saliency learned from boxes"),
]

REMARKS = {
    "own-init": "starts from the classifier's backbone; the paper's last layer has ImageNet's weights of the classes.",
    "images": "the recipe's images and all their tags; published: 760,000 images of ImageNet, one tag each.",
    "fov": "published: 38.2 at a field of view of 128 pixels (rate 6), 30.2 at 224 (rate 12).",
    "vgg": "published with VGG16; its released code and abstract have 60.8 with ResNet101.",
    "trained": "a network learns the CRF's labels of its maps; published: these labels themselves, of test images.",
    "mean": "from the classifier that pools by the mean; published: by the maximum.",
    "mask": "stand-in: foreground from unsupervised saliency, once; published: the network's activations, every step.",
    "unverified": "some of its constants are from memory of the paper.",
    "saliency": "stand-in: unsupervised saliency; published: DRFI or DHSNet, which learned from masks of other sets.",
    "once": "not retrained; published: retrained on its own masks.",
}

FOOTNOTES = """\
Of the published table:

- (a) MIL-FCN's 25.7 is a test score; its paper has 25.05 on VOC 2011 val and no figure on VOC 2012 val. It used no CRF.
- (b) CCNN stands there with 700,000 images; its released code trains on VOC's lists, ImageNet being its initialization.
- (c) EM-Adapt's CRF was chosen on 100 val images with masks.
- (d) SN_B and MIL-seg have swapped test scores: their own papers say 43.2 and 40.6, as here.
- MIL-bb is not marked as using more than tags, but its boxes were learned from boxes.
- AE-PSL, DCSP, STC and DSRG use learned saliency but stand under image-level labels.
- Rows differ in images, saliency, CRF and field of view, of which the paper mentions the first.
"""

PREDICTION = """\
Predicted before the run (same backbone, CRF for all): MIL ~ MIL-LSE < MIL-LSE + prior < EM-Adapt (rate 12) ~ CCNN <
EM-Adapt (rate 6) < BFBP < SEC <= static seeds + balanced loss ~ AE-PSL < DCSP's rule <= DSRG. Firm: MIL and MIL-LSE
without prior last; all that has localized seeds above all that has tags only; EM-Fixed far under EM-Adapt; EM-Adapt
falls at a large field of view. Soft: CCNN against EM-Adapt. Differences under two points are no order.
"""


@click.command()
@click.option("--recipe", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="Params file to use.")
@click.option("--set", "common", multiple=True, metavar="KEY=VALUE", help="A param changed in every row.")
@click.option("--seeds", "first_seeds", multiple=True, type=int, metavar="SEED...", help="Default: 0 1 2; --quick: 0.")
@click.option("--only", multiple=True, metavar="NAME", help="Rows of these names.")
@click.option("--quick", is_flag=True, help="A dozen steps on a dozen images of the demo.")
@click.option("--fresh", is_flag=True, help="Run again what the JSON has.")
@click.argument("more_seeds", nargs=-1, type=int, metavar="")
def main(
    recipe: Path | None,
    common: tuple[str, ...],
    first_seeds: tuple[int, ...],
    only: tuple[str, ...],
    quick: bool,
    fresh: bool,
    more_seeds: tuple[int, ...],
) -> None:
    seeds = [*first_seeds, *more_seeds] or ([0] if quick else [0, 1, 2])
    name = (recipe.stem if recipe else "params") + ("-quick" if quick else "")
    if unknown := {*only} - {row.name for row in ROWS}:
        raise click.BadParameter(f"no row {', '.join(sorted(unknown))}; rows: {', '.join(row.name for row in ROWS)}")
    rows = [row for row in ROWS if not only or row.name in only]
    click.echo(PREDICTION)
    found: dict[str, list[dict]] = {}
    with recipe_in_place(recipe):
        stride = load_params().network.output_stride
        experiments = Experiments(RESULTS / f"table1-{name}.json", common=[*common, *QUICK * quick], fresh=fresh)
        for seed in seeds:  # seed by seed, so that an unfinished table compares like with like
            for row in rows:
                changes = [f"seed={seed}", *row.all_changes(stride)]
                run = f"table1-{name}-{row.name.replace('_', '-')}-seed{seed}"
                found.setdefault(row.name, []).append(experiments.figures(run, changes, network=row.network))
                write_json(RESULTS / ("table1-quick.json" if quick else "table1.json"), summary(rows, found))
    table = markdown(name, seeds, rows, found)
    write_text(Path("results/table1.md"), table)
    draw(Path("results/table1.png"), rows, found)
    click.echo(table)


def summary(rows: list[Row], found: dict[str, list[dict]]) -> dict[str, dict]:
    """`{NAME: {"miou": [a seed], "miou_crf": [..], "published_val": percent or None, "published_test": ..}}`."""
    return {
        row.name: {figure: [run[figure] for run in found[row.name]] for figure in ("miou", "miou_crf")}
        | {"published_val": row.published[0], "published_test": row.published[1]}
        for row in rows
        if row.name in found
    }


def markdown(name: str, seeds: list[int], rows: list[Row], found: dict[str, list[dict]]) -> str:
    """The table, mean and standard deviation over the seeds in percent; what its marks mean; the prediction."""
    lines = [f"Table 1 with {name}, seeds {', '.join(map(str, seeds))}; mIoU on the evaluation split.", ""]
    lines += ["| method | mIoU | with CRF | published val | published test | remarks |", "|---|---|---|---|---|---|"]
    for row in rows:
        runs = found[row.name]
        ours = [percent(run[figure] for run in runs) for figure in ("miou", "miou_crf")]
        lines.append(f"| {' | '.join([row.title, *ours, *map(shown, row.published), ', '.join(row.marks)])} |")
    for one in NOT_RUN:
        lines.append(f"| *{one.title}* |  |  | {' | '.join(map(shown, one.published))} | *not run: {one.why}* |")
    used = [mark for mark in REMARKS if any(mark in row.marks for row in rows)]
    lines += ["", *(f"- {mark}: {REMARKS[mark]}" for mark in used)]
    return "\n".join(lines) + f"\n\n{FOOTNOTES}\n{PREDICTION}"


def shown(figure: float | None) -> str:
    return "" if figure is None else f"{figure:.1f}"


def draw(path: Path, rows: list[Row], found: dict[str, list[dict]]) -> None:
    """A bar a row, mIoU with CRF, whiskers: standard deviation over the seeds; dots: without CRF; strokes: published.

    Gray: methods that are not run, as published on val.
    """
    runs = [(row.title, row.published, found[row.name]) for row in rows]
    count = len(runs) + len(NOT_RUN)
    figure, axes = plt.subplots(figsize=(8, 1 + 0.28 * count), layout="constrained")
    for number, (_, published, own) in enumerate(runs):
        mean, deviation = mean_and_deviation(100 * run["miou_crf"] for run in own)
        plain, _ = mean_and_deviation(100 * run["miou"] for run in own)
        place = count - 1 - number
        label = {"label": "with CRF"} if not number else {}
        axes.barh(place, mean, xerr=deviation, color="C0", error_kw={"lw": 0.8}, **label)
        axes.plot(plain, place, "o", color="C1", ms=4, **({"label": "without CRF"} if not number else {}))
        if published[0] is not None:
            axes.vlines(published[0], place - 0.4, place + 0.4, color="black")
    axes.barh(range(len(NOT_RUN))[::-1], [one.published[0] for one in NOT_RUN], color="lightgray", label="published")
    axes.set_yticks(range(count), [*(title for title, *_ in runs), *(one.title for one in NOT_RUN)][::-1])
    axes.set_xlabel("mIoU, percent; black: published, on VOC 2012 val")
    axes.grid(axis="x", alpha=0.3)
    axes.set_axisbelow(True)
    figure.legend(loc="outside upper center", ncols=3, fontsize="small")
    save_figure(path, figure)


if __name__ == "__main__":
    main()
