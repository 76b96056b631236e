"""DVC experiments for the tables: run one, or take its figures from the JSON where it has been run before."""

import json
import shutil
import statistics
import subprocess
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import reduce, wraps
from hashlib import sha256
from pathlib import Path

import click
import numpy as np
from numpy.typing import NDArray
from ruamel.yaml import YAML

from dsrg.artifacts.growth import read_growth
from dsrg.data.batches import WHOLE, crop_labels
from dsrg.data.index import Masks, read_ground_truth
from dsrg.errors import InputError
from dsrg.evaluation.scores import with_ground_truth
from dsrg.evaluation.segmentation import evaluate_segmenter
from dsrg.files import write_json, write_text
from dsrg.inference.predict import load_segmenter
from dsrg.method.metrics import confusion_matrix, label_quality
from dsrg.networks.network import DeepLab
from dsrg.params import load_params
from dsrg.project import load_project

MADE_BY = {"dsrg": "train_dsrg", "retrain": "retrain", "full": "prepare"}
yaml = YAML(typ="safe", pure=True)


def experiment_options(*, seeds: str | None = None) -> Callable[[Callable], Callable]:
    """The options that tables of experiments share.

    seeds: the default of --seeds 0 1 2, for its help; the command gets a list, empty without it. None: no such option.
    """
    file = click.Path(exists=True, dir_okay=False, path_type=Path)
    options = [
        click.option("--recipe", type=file, help="Params file to use."),
        click.option("--set", "common", multiple=True, metavar="KEY=VALUE", help="A param changed in every row."),
        click.option("--fresh", is_flag=True, help="Run again what the JSON has."),
    ]
    if seeds is not None:  # click has no option of several values: those after the first are arguments
        several = {"multiple": True, "type": int, "metavar": "SEED...", "help": f"Default: {seeds}."}
        options += [click.option("--seeds", "first_seeds", **several)]
        options += [click.argument("more_seeds", nargs=-1, type=int, metavar="")]

    def with_options(command: Callable) -> Callable:
        @wraps(command)
        def called(*, first_seeds: tuple[int, ...] = (), more_seeds: tuple[int, ...] = (), **given: object) -> None:
            command(**given, **({} if seeds is None else {"seeds": [*first_seeds, *more_seeds]}))

        return reduce(lambda inner, option: option(inner), reversed(options), called)

    return with_options


@contextmanager
def recipe_in_place(recipe: Path | None) -> Iterator[None]:
    """params.yaml is the recipe meanwhile, and what it was afterwards."""
    path = Path("params.yaml")
    before = path.read_text(encoding="utf-8")
    try:
        if recipe is not None:
            write_text(path, recipe.read_text(encoding="utf-8"))
        load_params()
        yield
    finally:
        write_text(path, before)


class Experiments:
    """Figures of experiments, kept in one JSON file, so that an interrupted table goes on where it was.

    Each is filed under the digest of all its params: other params are another experiment. Other code is not seen:
    `fresh` runs everything again.
    """

    def __init__(self, path: Path, *, common: Iterable[str], fresh: bool) -> None:
        self.path, self.common = path, list(common)
        self.params = Path("params.yaml").read_text(encoding="utf-8")
        self.known = {} if fresh or not path.exists() else json.loads(path.read_text(encoding="utf-8"))["experiments"]

    def figures(
        self,
        name: str,
        changes: list[str],
        *,
        network: str,
        variant: str = "",
        before: Callable[[], object] = dict,
        also: Callable[[], dict] = dict,
    ) -> dict:
        """mIoU, with and without CRF, and IoU per class of a network with changed params.

        network: "dsrg", "retrain", or "full", the network of `retrain` trained on the true masks. variant: what
        differs besides params, put in place by `before`. also: what more to note of the working folder after the run.
        """
        everything = [*self.common, *changes]
        write_text(Path("params.yaml"), self.params)  # `dvc exp run` leaves the changes of the one before in it
        key = f"{network}-{params_digest(everything)}{variant}"
        if key not in self.known:
            options = [part for change in everything for part in ("--set-param", change)]
            click.echo(f"{name}: {' '.join(everything)}")
            before()
            # a name is taken once; the stages of the one before come from DVC's cache
            subprocess.run(["dvc", "exp", "remove", name], capture_output=True)
            subprocess.run(["dvc", "exp", "run", "--name", name, *options, MADE_BY[network]], check=True)
            found = fully_supervised(key) if network == "full" else evaluated(network)
            self.known[key] = {"name": name, "changes": changes, "network": network, **found, **also()}
            write_json(self.path, {"experiments": self.known})
        return self.known[key]


def params_digest(changes: list[str]) -> str:
    """sha256 of params.yaml's values with `section.key=value` changed. Raises InputError for an unknown key."""
    values = yaml.load(Path("params.yaml").read_text(encoding="utf-8"))
    for change in changes:
        key, value = change.split("=", 1)
        *sections, last = key.split(".")
        inner = values
        for section in sections:
            inner = inner.get(section, {})
        if last not in inner:
            raise InputError(f"{change}: params.yaml has no {key}")
        inner[last] = yaml.load(value)
    return sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:16]


def evaluated(network: str) -> dict:
    """The network in the working folder on the evaluation split, as the stage `evaluate` does it."""
    segmenter, model = load_segmenter(getattr(load_project().paths, network), stage_name=MADE_BY[network])
    found = scored(segmenter, size=model.size)
    return found | {"growth": recorded_growth()} if network == "dsrg" else found


def recorded_growth() -> list[dict[str, float]]:
    """What the watched training images learned from, compared with their masks, at each moment that was recorded.

    Of foreground and background, as `label_quality` counts them: precision and recall, and the labeled share of all
    pixels with a class in the masks. Empty where no watched image has a mask.
    """
    project = load_project()
    classes = project.classes
    truth = read_ground_truth(project.paths.ground_truth)
    index = project.index().split("train")
    confusions: dict[int, NDArray[np.int64]] = {}
    for image_id in index.ids[: project.params.dsrg.watch_images]:
        if image_id not in truth:
            continue
        for step, labels in read_growth(project.paths.growth, image_id).items():
            mask = crop_labels(truth[image_id].labels(project.paths.masks), WHOLE, size=len(labels))
            confusions[step] = confusions.get(step, 0) + confusion_matrix(mask, labels, classes=len(classes))
    found = []
    for step, confusion in sorted(confusions.items()):
        labeled = confusion[:, :-1].sum(axis=0) / confusion.sum()
        shares = {"fg_share": float(labeled[1:].sum()), "bg_share": float(labeled[0])}
        found.append({"step": step, **shares, **label_quality(confusion)})
    return found


def fully_supervised(key: str) -> dict:
    """Train on the true masks of the working folder, going on where an earlier call was stopped."""
    from benchmarks.upper_limit import full_supervision

    scratch = Path(".scratch") / key
    found = scored(full_supervision(scratch, fingerprint=key), size=load_params().data.size)
    shutil.rmtree(scratch)
    return found


def scored(segmenter: DeepLab, *, size: int) -> dict:
    """A segmenter on the evaluation split of the working folder; size: side of its training squares, pixels.

    mIoU is that of `over_truth`.
    """
    project = load_project()
    classes = project.classes
    truth = read_ground_truth(project.paths.ground_truth)
    index = with_ground_truth(project.index().split("val"), truth)
    scores, _ = evaluate_segmenter(
        segmenter,
        index,
        Masks(truth, index.ids, folder=project.paths.masks),
        project.params.evaluate,
        classes=classes,
        size=size,
        kernel=project.params.crf.test,
    )
    return over_truth(scores.metrics() | {"iou": scores.per_class(crf=False), "iou_crf": scores.per_class(crf=True)})


def over_truth(run: dict) -> dict:
    """A run's figures with mIoU over the classes that the masks show, so that all runs have the same ones.

    The pipeline's own counts a class that is predicted and nowhere in the masks as 0: among 122 images, by chance.
    """
    means = {
        f"miou{crf}": statistics.mean(value for name, value in run[f"iou{crf}"].items() if name not in run["absent"])
        for crf in ("", "_crf")
    }
    return run | means
