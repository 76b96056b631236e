"""The tables of benchmarks/README.md, from the JSON files in benchmarks/results: no figure is copied by hand.

python -m benchmarks.readme        after benchmarks have written new figures
"""

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import click

from benchmarks import RESULTS
from benchmarks.tables import markdown_table
from dsrg.files import write_text

README = Path(__file__).parent / "README.md"
GROWN, LARGE = "20 x 41 x 41, 21 classes", "375 x 500, 21 classes"


class Limit(NamedTuple):
    """What must hold: the value of a JSON file is at most (or, `least`, at least) the limit; `gpu`: if from one.

    floor: the value that nothing could better, a number or what finds it in the file; None where a person's patience,
    not a machine, sets the limit.
    """

    what: str
    file: str
    value: Callable[[dict], float]
    limit: float
    unit: str
    least: bool = False
    gpu: bool = False
    floor: Callable[[dict], float] | float | None = None


def _at(path: str, factor: float = 1.0) -> Callable[[dict], float]:
    """The figure at a path of keys, `sides/41 x 41/ours, CPU/median_s`: each the first key that begins so."""

    def value(found: dict) -> float:
        for start in path.split("/"):
            found = next(inner for key, inner in found.items() if key.startswith(start))
        return factor * found

    return value


def _alike(key: str, worst: Callable[..., float], factor: float = 1.0) -> Callable[[dict], float]:
    return lambda found: factor * worst(row[key] for row in found["alike"].values())


def _of_floor(found: dict) -> float:
    return found["parts"]["step, without"]["median_s"] / found["floor_s"]


def _large_image(found: dict) -> float:
    return max(row["peak_gib"] for name, row in found["cases"].items() if "2000 x 1500" in name) * 2**30 / 1e9


def _supply(found: dict) -> float:
    """The loader's images per second over those of the steps that are fed."""
    loader = found["work"]["loader"].items()
    return _over_step(found, max(row["images_per_s"]["median"] for cores, row in loader if "cores" in cores))


def _supply_floor(found: dict) -> float:
    """The same for a loader that only reads decoded pixels and writes squares."""
    return _over_step(found, found["work"]["loader"]["floor_images_per_s"])


def _over_step(found: dict, images_per_s: float) -> float:
    step = found.get("step") or _read(f"step-{found['recipe']}.json")
    return images_per_s * step["parts"]["step, with"]["median_s"] / step["batch"]


def _cold(found: dict) -> float:
    return found["cold"]["processor_s"] / found["cold"]["import_torch_s"]


def _slider(found: dict) -> float:
    return max(found[part]["median_ms"] for part in ("live_seeds", "live_growth", "live_points"))


def _minutes(found: dict) -> float:
    return sum(found["estimated_s"].values()) / 60


MOBILENET, VGG = "voc2012-mobilenet", "voc2012-vgg16"
STEP, WHOLE = "training step", "whole images"  # batches of `benchmarks.crf`
WITH_OVER_WITHOUT = _at("with_over_without/median")
LIMITS = [
    Limit(
        f"growth, {GROWN}, one thread: speed over the released loops in Python",
        *("growth.json", _at("sides/41 x 41/released loops in Python/times_ours/median")),
        *(100, "times", True),
        floor=lambda found: (
            found["sides"]["41 x 41"]["released loops in Python"]["median_s"] / found["floor_s"]["41 x 41"]
        ),
    ),
    *(
        Limit(
            f"growth, {shown}, one thread",
            *("growth.json", _at(f"sides/{side}/ours, CPU/median_s", 1e3), limit, "ms"),
            floor=_at(f"floor_s/{side}", 1e3),
        )
        for shown, side, limit in ((GROWN, "41 x 41", 12), ("20 x 321 x 321", "321 x 321", 500))
    ),
    Limit(
        f"growth, {GROWN}, GPU",
        *("growth.json", _at("sides/41 x 41/ours, GPU/median_s", 1e3), 0.5, "ms"),
        gpu=True,
    ),
    Limit(
        "lattice against pydensecrf, 41 and 321 px, five sets of parameters: mean difference",
        *("crf.json", _alike("mean_difference", max), 1e-5, ""),
        floor=0,
    ),
    Limit("the same: labels alike", "crf.json", _alike("same_label", min, 100), 99.9, "%", True, floor=100),
    *(
        Limit(
            f"lattice, {shown}, GPU",
            *("crf.json", _at(f"batches/{batch}/lattice, NVIDIA/median_s", 1e3), limit, "ms"),
            gpu=True,
        )
        for batch, shown, limit in ((STEP, GROWN, 5), (WHOLE, f"4 x {LARGE}", 4 * 30))
    ),
    *(
        Limit(
            f"pydensecrf on 2 cores over one, {shown}",
            *("crf.json", _at(f"batches/{batch}/pydensecrf, 2/speed/median"), 1.7, "times", True),
            floor=2,
        )
        for batch, shown in ((STEP, GROWN), (WHOLE, f"4 x {LARGE}"))
    ),
    Limit(
        "step with CRF and growth over without, MobileNetV2, 2-core CPU",
        *(f"step-{MOBILENET}.json", WITH_OVER_WITHOUT, 1.3, "times"),
        floor=1,
    ),
    Limit(
        "step with CRF and growth over without, VGG16, GPU",
        *(f"step-{VGG}.json", WITH_OVER_WITHOUT, 1.1, "times"),
        gpu=True,
    ),
    Limit("step of VGG16 over its floor, GPU", f"step-{VGG}.json", _of_floor, 2.5, "times", gpu=True),
    Limit(
        "loader over the step that it feeds, images per second, MobileNetV2, 2-core CPU",
        *(f"throughput-{MOBILENET}.json", _supply, 1.5, "times", True),
        floor=_supply_floor,
    ),
    Limit(
        "loader over the step that it feeds, images per second, VGG16, GPU",
        *(f"throughput-{VGG}.json", _supply, 1.5, "times", True, True),
    ),
    *(
        Limit(
            f"`dsrg predict` over its floor, no CRF, {network}, pictures of {size} size, processor",
            *(f"predicting-{name}.json", _at(f"sizes/{size}/processor_times_the_floor"), 1.25, "times"),
            floor=1,
        )
        for name, network in (("trained", "trained network"), ("folder", "random weights"))
        for size in ("VOC's", "a camera's")
    ),
    Limit(
        "`dsrg predict`, trained network, a camera's size: pixels of another class than if decoded whole",
        *("predicting-trained.json", _at("sizes/a camera's/pixels_changed", 100), 1, "%"),
        floor=0,
    ),
    Limit(
        "`dsrg predict` of one picture, cold, trained network, over importing torch alone: processor",
        *("predicting-trained.json", _cold, 1.5, "times"),
        floor=1,
    ),
    Limit("estimate of the whole VOC recipe, GPU", f"estimate-{VGG}.json", _minutes, 20, "min", gpu=True),
    Limit(
        "peak memory of the CRF of an image of 2000 x 1500, CPU",
        *("memory.json", _large_image, 6, "GB"),
        floor=_at("cases/lattice 2000 x 1500/floor_gib", 2**30 / 1e9),
    ),
    Limit(
        "`dsrg inspect`, grid of 10,000 images, until its thumbnails are there",
        *("inspect.json", _at("seconds/first_load"), 2, "s"),
    ),
    Limit("`dsrg inspect`, answer to a threshold or a point", "inspect.json", _slider, 150, "ms"),
]


def limits() -> Iterator[list[str]]:
    """Rows: what, limit, measured, its floor, whether it holds."""
    yield ["what must hold", "limit", "measured", "floor", "holds"]
    parts = _parts_on_gpu()
    for what, file, value, limit, unit, least, gpu, floor in LIMITS:
        stated = f"{'at least' if least else 'at most'} {limit:g} {unit}".rstrip()
        figures = parts.get(re.split(r"[-.]", file)[0], {}) if gpu else _read(file)
        found = _value(figures, value)
        bound = _value(figures, floor) if callable(floor) else floor
        bound = "" if bound is None else f"{_number(bound)} {unit}".rstrip()
        if gpu and not parts:
            yield [what, stated, "no card at hand", "", ""]
        elif found is None:
            yield [what, stated, "not measured yet", "", ""]
        else:
            holds = found >= limit if least else found <= limit
            yield [what, stated, f"{_number(found)} {unit}".rstrip(), bound, "yes" if holds else "**no**"]


class Timing(NamedTuple):
    what: str
    row: dict[str, float]
    floor_s: float | None


def timings() -> Iterator[Timing]:
    """What took how long in the timing benchmarks, and the floor of it."""
    growth, crf = _read("growth.json"), _read("crf.json")
    for side, row in growth.get("sides", {}).items():
        for who, found in row.items():
            yield Timing(f"growth, 20 x {side}: {who}", found, growth.get("floor_s", {}).get(side))
    for title, row in crf.get("batches", {}).items():
        for engine, found in row.items():
            yield Timing(f"CRF, {title}: {engine}", found, crf.get("floor_s", {}).get(title))
    for name in _named("step"):
        step = _read(f"step-{name}.json")
        for part, found in step["parts"].items():
            floor = step["floor_s"] if part.startswith("step") else None
            yield Timing(f"{name}, {step['batch']} x {step['size']} px: {part}", found, floor)
        if cam := step.get("cam_step"):
            yield Timing(f"{name}, {cam['batch']} x {step['size']} px: classifier's step", cam, None)
    for name in _named("predicting"):
        for title, found in _read(f"predicting-{name}.json")["sizes"].items():
            title = f"{name}, {found['pictures']} pictures of {title} size"
            yield Timing(f"{title}: predict", found["predict"], found.get("floor_s"))
            for what, one in {"network": found["network"], **found.get("parts", {})}.items():
                yield Timing(f"{title}: {what}", one, None)


def times() -> Iterator[list[str]]:
    yield ["what", "median, ms", "least", "most", "floor, ms", "times the floor"]
    for what, row, floor in timings():
        spread = [_number(1e3 * row[key]) for key in ("median_s", "min_s", "max_s")]
        above = ["", ""] if floor is None else [_number(1e3 * floor), _number(row["median_s"] / floor)]
        yield [what, *spread, *above]


def rates() -> Iterator[list[str]]:
    yield ["what", "cores", "images/s, median", "least", "most", "times one core", "floor, images/s", "of the floor"]
    for name in _named("throughput"):
        for work, found in _read(f"throughput-{name}.json")["work"].items():
            floor = found["floor_images_per_s"]
            for cores, row in found.items():
                if cores.endswith("cores"):
                    speed = row["images_per_s"]
                    spread = [_number(speed[key]) for key in ("median", "min", "max")]
                    share = f"{_number(100 * speed['median'] / floor)} %"
                    times_one = _number(row["times_one_core"]["median"])
                    yield [f"{name}: {work}", cores.split()[0], *spread, times_one, _number(floor), share]


def memory() -> Iterator[list[str]]:
    yield ["what", "peak, GiB", "floor, GiB", "times the floor"]
    for what, row in _read("memory.json").get("cases", {}).items():
        peak, floor = row["peak_gib"], row["floor_gib"]
        yield [what, *map(_number, (peak, floor, peak / floor))]


def stages() -> Iterator[list[str]]:
    """Seconds of every stage: measured runs, and estimates of whole recipes on VOC 2012."""
    runs = {name: _read(f"stages-{name}.json")["stages"] for name in _named("stages")}
    columns = {
        f"`dvc repro`, {name}": {stage: row["seconds"] for stage, row in run.items()} for name, run in runs.items()
    }
    for name in _named("estimate"):
        columns[f"estimate, {name}, all of VOC"] = _read(f"estimate-{name}.json")["estimated_s"]
    names = list(dict.fromkeys(stage for column in columns.values() for stage in column))
    yield ["stage, seconds", *columns]
    for stage in names:
        yield [stage, *(f"{column[stage]:.0f}" if stage in column else "" for column in columns.values())]
    yield ["all", *(f"{sum(column.values()):.0f}" for column in columns.values())]


def machines() -> Iterator[list[str]]:
    yield ["file", "device", "cores", "threads", "torch", "programs that wanted a core"]
    kinds = ("growth", "crf", "step", "throughput", "memory", "full_size", "predicting", "estimate")
    for path in sorted(RESULTS.glob("*.json")):
        found = _read(path.name).get("machine", {})
        if path.stem.split("-")[0] in kinds:
            cells = (found.get(key, "") for key in ("device", "cores", "threads", "torch", "others"))
            yield [f"`{path.name}`", *map(str, cells)]


TABLES = {table.__name__: table for table in (limits, times, rates, memory, stages, machines)}


def updated(text: str) -> str:
    """A text with every table between `<!-- NAME -->` and `<!-- end -->` made anew."""

    def table(match: re.Match) -> str:
        header, *rows = TABLES[match[1]]()
        return "\n".join([f"<!-- {match[1]} -->", *markdown_table(header, rows), "<!-- end -->"])

    return re.sub(r"<!-- (\w+) -->\n.*?<!-- end -->", table, text, flags=re.DOTALL)


def _number(value: float) -> str:
    """Three digits, and all of those before the point."""
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def _value(found: dict, value: Callable[[dict], float]) -> float | None:
    try:
        return value(found)
    except (KeyError, StopIteration, ValueError):  # a file, side or engine that is not there
        return None


def _parts_on_gpu() -> dict[str, dict]:
    """What the benchmarks wrote on a GPU, by name; `benchmarks.device` keeps it."""
    found = _read("device.json")
    return found["parts"] if found.get("machine", {}).get("device", "CPU") != "CPU" else {}


def _named(kind: str) -> list[str]:
    """NAME of the files KIND-NAME.json."""
    return sorted(path.stem.removeprefix(f"{kind}-") for path in RESULTS.glob(f"{kind}-*.json"))


def _read(file: str) -> dict:
    """What a benchmark wrote; nothing, if it has not run."""
    path = RESULTS / file
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


@click.command()
def main() -> None:
    write_text(README, updated(README.read_text(encoding="utf-8")))


if __name__ == "__main__":
    main()
