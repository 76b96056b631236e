"""All that half an hour with a GPU is for, in parts of a few minutes; docs/gpu.md says how to send what comes out.

    python -m benchmarks.device [--out device.json] [--minutes 9] [--images FOLDER] [--training FOLDER] [--quick]
    python -m benchmarks.device --pack VOC2012 --training FOLDER

Each call goes on with the parts that the JSON of the last one lacks, and starts none after half of its minutes. It runs
on a bare machine (`benchmarks.bare`), and without a GPU on the CPU, which says how far both are from each other: not at
all. `--quick` takes small networks and few cases.

    parity      CPU against device: growth, CRF, losses on 200 random cases; gradients of a step in fp32 and bf16
    growth, crf, step, throughput, estimate     the benchmarks of these names, with the GPU's limits
    variants    the step in fp32 and bf16, compiled, in CUDA graphs; what waits for the device in it
    memory      the peak of a step against its prediction
    predict     images per second
    training    `recipes/voc2012-vgg16.yaml` on the images of a folder with tags.csv, stage by stage; goes on where the
                last call was out of time. Tar files in the folder, the parts in which images came over, are unpacked.
"""

import argparse
import importlib
import io
import json
import os
import platform
import signal
import tarfile
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import chdir
from inspect import signature
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

import benchmarks.bare  # noqa: F401, before all that may need what it stands in for
from benchmarks import crf, estimate, full_size, growth, step, throughput
from benchmarks.timing import Runs, machine, now, spread, write_figures
from dsrg.data.batches import Batch, Batches
from dsrg.data.classes import VOC_CLASSES
from dsrg.data.images import read_image
from dsrg.files import read_yaml, write_text
from dsrg.inference.predict import predictions
from dsrg.inference.released import PREDICT
from dsrg.method.crf import clamped, dense_crf, unary_energies
from dsrg.method.growing import grow
from dsrg.method.losses import boundary_loss, seeding_loss
from dsrg.method.weak import LOSSES
from dsrg.params import Data, Params, PredictParams, load_params
from dsrg.runtime.signals import Stopped, stoppable
from dsrg.stage import load_stage, run_stage
from dsrg.training.dsrg import Supervisor, dsrg_criterion
from dsrg.training.memory import step_bytes, untrained

ROOT = Path(__file__).resolve().parent.parent
STAGES = ("prepare", "train_cam", "make_seeds", "train_dsrg", "make_pseudo_labels", "retrain")
# A training of seconds: params that `--quick` changes.
SMALL = {
    "shapes": {"train": 8, "val": 4, "size_min": 64, "size_max": 72},
    "data": {"size": 65, "points": None},
    "network": {"head_channels": 8},
    **{name: {"steps": 2, "batch": 2} for name in ("cam", "retrain")},
    "dsrg": {"steps": 2, "batch": 2, "watch_images": 1},
}


class Setting(SimpleNamespace):
    """device, quick, params (of the recipe), images (JPEGs: a folder, or None), training (its folder, or None), until
    (when to be done, on `time.monotonic`), parts (figures so far).
    """


# How far the device is from the CPU


def parity(setting: Setting) -> dict:
    """Shares of pixels that grow otherwise and that the CRF labels otherwise, and relative distances."""
    found: dict[str, list[float]] = {}
    photos = _photos(setting, 41)
    for case in range(4 if setting.quick else 200):
        images = photos[2 * case :][:2] if len(photos) > 2 * case + 1 else _noise(case, 41)
        parts = images, *growth.example(41, images=2, seed=case)
        sides = (torch.device("cpu"), setting.device)
        host, device = (_results(setting.params, *(part.to(side) for part in parts)) for side in sides)
        for name, expected in host.items():
            other = float((expected != device[name]).float().mean())
            labels = expected.dtype in (torch.uint8, torch.int64)
            found.setdefault(name, []).append(other if labels else _distance(expected, device[name]))
    rows = {name: {"mean": float(np.mean(values)), "worst": max(values)} for name, values in found.items()}
    return {"cases": case + 1, "photographs": len(photos), **rows, "gradients": _gradients(setting)}


def _results(params: Params, images: Tensor, seeds: Tensor, probs: Tensor, present: Tensor) -> dict[str, Tensor]:
    """What growth, CRF and every loss make of a batch, on the CPU; from probabilities, whatever the device, alike."""
    kernel, min_prob = params.crf.train.kernel, params.crf.train.min_prob
    probs = clamped(probs, min_prob=min_prob)
    energies = unary_energies(probs, unary=params.crf.train.unary, min_prob=min_prob)
    refined = clamped(dense_crf(images, energies, engine="lattice", **kernel), min_prob=min_prob)
    found = {"grown": grow(seeds, probs, present, **growth.PAPER), "crf": refined, "crf_labels": refined.argmax(1)}
    found["seeding_loss"] = seeding_loss(probs, seeds, balanced=True)
    found["boundary_loss"] = boundary_loss(probs, refined, ratio_clip=None, crf_gradient=False)
    for name, loss in LOSSES.items():
        options = getattr(params.weak, name).model_dump()
        if "crf" in signature(loss).parameters:
            options["crf"] = lambda images, probs: refined
        found[name] = loss(probs.log(), present=present, seeds=seeds, images=images, step=3, **options).mean()
    return {name: value.cpu() for name, value in found.items()}


def _gradients(setting: Setting) -> dict[str, float]:
    """Distances of loss and gradients of a whole step, without dropout, from those on the CPU in fp32."""
    torch.manual_seed(0)
    params = setting.params
    network = untrained(params, "dsrg", classes=len(VOC_CLASSES)).eval()
    batch = _batch(params, 2)
    supervisor = Supervisor(crf=params.crf.train, grow=params.grow, boundary_loss=True)
    criterion = dsrg_criterion(params.dsrg, supervisor=supervisor)

    def gradients(device: torch.device, half: bool) -> tuple[Tensor, Tensor]:
        network.to(device).zero_grad(set_to_none=True)
        with torch.autocast(device.type, torch.bfloat16, enabled=half):
            loss, _ = criterion(network, batch.to(device), 10**6)
        loss.backward()
        kept = [parameter.grad.flatten().cpu() for parameter in network.parameters() if parameter.grad is not None]
        return loss.detach().cpu(), torch.cat(kept)

    expected = gradients(torch.device("cpu"), False)
    sides = {"fp32": (setting.device, False), "bf16": (setting.device, True)}
    found = {name: gradients(*side) for name, side in sides.items()}
    return {
        f"{name}_{what}": _distance(expected[place], found[name][place])
        for name in sides
        for place, what in enumerate(("loss", "gradients"))
    }


def _distance(expected: Tensor, found: Tensor) -> float:
    return float((found.double() - expected.double()).norm() / expected.double().norm().clamp(min=1e-12))


# How fast it is


def benchmark(program: object, **options: object) -> Callable[[Setting], dict]:
    """A part that is another benchmark: its JSON."""

    def part(setting: Setting) -> dict:
        with tempfile.TemporaryDirectory() as folder:
            out = Path(folder) / "figures.json"
            main = getattr(program.main, "callback", program.main)  # a command, unless `click` is stood in for
            threads = torch.get_num_threads(), cv2.getNumThreads()  # some measure one
            main(**{key: value(setting) if callable(value) else value for key, value in options.items()}, out=out)
            torch.set_num_threads(threads[0])
            cv2.setNumThreads(threads[1])
            return json.loads(out.read_text(encoding="utf-8"))

    return part


def supply(setting: Setting) -> dict:
    """`throughput`, with the step that the loader feeds."""
    options = {"recipe": _recipe, "photos": lambda setting: setting.images, "count": 64, "rounds": 1}
    fed, whole = setting.parts["step"], "step, with"
    step_of = {"batch": fed["batch"], "parts": {whole: fed["parts"][whole]}}
    return benchmark(throughput, **options, **QUICK)(setting) | {"step": step_of}


def whole(setting: Setting) -> dict:
    """`estimate`, from the parts before."""
    if setting.quick:
        return {"skipped": "one core's throughput says nothing of it"}
    return {"estimated_s": estimate.estimate(setting.params, setting.parts["step"], setting.parts["throughput"])}


def variants(setting: Setting) -> dict:
    """Seconds of the step, with and without supervision, in both precisions and compiled, and its waits."""
    rounds, found = 1 if setting.quick else 7, {}
    batch = _batch(setting.params, 2 if setting.quick else setting.params.dsrg.batch)
    modes = [None] if setting.quick else [None, "default", "reduce-overhead"]  # the last one: CUDA graphs
    for precision in ("fp32", "bf16"):
        for mode in modes:
            settings = setting.params.dsrg.model_copy(update={"precision": precision})
            one = step.Step(setting.params.model_copy(update={"dsrg": settings}), setting.device)
            name = precision if mode is None else f"{precision}, compiled, {mode}"
            try:
                if mode is not None:
                    one.segmenter = torch.compile(one.segmenter, mode=mode)
                found[name] = _timed(one, batch, rounds)
            except Exception as error:  # a compiler may fail in many ways; then it is not worth it
                found[name] = {"failed": " ".join(str(error).split())[:300]}
    return {"batch": len(batch.images), "seconds": found, "waits": _waits(setting, batch)}


def _timed(one: step.Step, batch: Batch, rounds: int) -> dict[str, float]:
    laps = step.Laps()
    for number in range(rounds + 2):
        if number == 2:  # compiled, allocated
            laps = step.Laps()
        for kind in ("with", "without"):
            one.run(batch, laps, kind=kind)
    return {name: spread(run.wall)["median_s"] for name, run in laps.runs.items()}


def _waits(setting: Setting, batch: Batch) -> dict[str, float]:
    """What waits for the device, by name, how often in a step; as the profiler saw three steps."""
    one, silent = step.Step(setting.params, setting.device), SimpleNamespace(start=lambda: 0, end=lambda *_, **__: 0)
    one.run(batch, silent, kind="with")
    activities = [torch.profiler.ProfilerActivity.CPU]
    if setting.device.type == "cuda":
        activities.append(torch.profiler.ProfilerActivity.CUDA)
    with torch.profiler.profile(activities=activities) as profile:
        for _ in range(3):
            one.run(batch, silent, kind="with")
    counts = Counter(event.name for event in profile.events())
    waiting = ("cudaStreamSynchronize", "cudaDeviceSynchronize", "cudaEventSynchronize", "aten::_local_scalar_dense")
    return {name: counts[name] / 3 for name in (*waiting, "aten::nonzero", "Memcpy DtoH (Device -> Pageable)")}


def memory(setting: Setting) -> dict:
    """GiB of a step's peak, predicted and, on a GPU, measured; without what convolutions use beside."""
    found = {}
    names = ["shapes"] if setting.quick else ["voc2012-vgg16", "voc2012-resnet101"]
    for name in names:
        params = load_params(ROOT / f"recipes/{name}.yaml")
        images = params.dsrg.batch
        row = found[name] = {"predicted_gib": step_bytes(params, "dsrg", classes=20, images=images) / 2**30}
        if setting.device.type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
            one, laps, batch = step.Step(params, setting.device), step.Laps(), _batch(params, images)
            for _ in range(2):
                one.run(batch, laps, kind="with")
            row["allocated_gib"] = torch.cuda.max_memory_allocated() / 2**30
            row["reserved_gib"] = torch.cuda.max_memory_reserved() / 2**30
            del one
    return found


def predict(setting: Setting) -> dict[str, float]:
    """Images of VOC's size a second, decoded before, at the released scales, without CRF."""
    segmenter = untrained(setting.params, "dsrg", classes=len(VOC_CLASSES)).eval().to(setting.device)
    count, runs = (2, 1) if setting.quick else (32, 3), Runs()
    images = [np.ascontiguousarray(image) for image in _pictures(setting, count[0])]
    options = {"size": setting.params.data.size, "kernel": None}
    for _ in range(count[1] + 1):
        began = now()
        list(predictions(segmenter, images, None, PredictParams(**PREDICT), **options))
        runs.wall.append(now() - began)
    return {"images": len(images), "images_per_s": len(images) / spread(runs.wall[1:])["median_s"]}


# A whole training


def training(setting: Setting) -> dict:
    """Seconds of each stage that is done; the parts that a call has no time for are left to the next."""
    if setting.training is None:
        return {"skipped": "--training FOLDER names no images"}
    folder = setting.training
    _unpack(folder)
    write_text(folder / "dvc.yaml", (ROOT / "dvc.yaml").read_text(encoding="utf-8"))
    _write_params(setting)
    names = (*(["draw_shapes"] if setting.quick else []), *STAGES)
    found = {"complete": False, "stages": {}}
    with chdir(folder):
        for name in names:
            stage = load_stage(name)
            if all(out.exists() for out in stage.outs):
                found["stages"][name] = "done before"
                continue
            began = time.monotonic()
            if not _run(name, until=setting.until):
                return found
            found["stages"][name] = time.monotonic() - began
    return found | {"complete": True}


def _run(name: str, *, until: float) -> bool:
    """Whether the stage was done in time; stopped, it keeps what it has. Raises RuntimeError where it fails."""
    if time.monotonic() >= until:
        return False
    timer = threading.Timer(until - time.monotonic(), os.kill, (os.getpid(), signal.SIGTERM))
    try:
        with stoppable():
            timer.start()
            run_stage(getattr(importlib.import_module(f"stages.{name}"), name))
    except Stopped:  # between two stages
        return False
    except SystemExit as end:
        if end.code == 128 + signal.SIGTERM:
            return False
        raise RuntimeError(f"the stage {name} failed: exit code {end.code}") from None
    finally:
        timer.cancel()
    return True


def _unpack(folder: Path) -> None:
    """The images of all parts, and their tables of tags in one."""
    folder.mkdir(parents=True, exist_ok=True)
    for part in sorted(folder.glob("*.tar")):
        lines = folder / f"{part.name}.csv"
        if not lines.exists():
            (folder / "pictures").mkdir(exist_ok=True)
            with tarfile.open(part) as tar:  # by their last names alone: nothing lands outside, on any Python 3.11 too
                for member in filter(tarfile.TarInfo.isreg, tar):
                    (folder / "pictures" / Path(member.name).name).write_bytes(tar.extractfile(member).read())
            (folder / "pictures/tags.csv").rename(lines)
    tables = [table.read_text(encoding="utf-8").splitlines() for table in sorted(folder.glob("*.tar.csv"))]
    if tables:
        rows = [row for table in tables for row in table[1:]]
        write_text(folder / "pictures/tags.csv", "\n".join([tables[0][0], *rows, ""]))


def _write_params(setting: Setting) -> None:
    """The recipe's params for the folder's images, in JSON, which is YAML. weights.pth there starts the networks."""
    recipe = "shapes" if setting.quick else "voc2012-vgg16"
    values = read_yaml(ROOT / f"recipes/{recipe}.yaml")
    changes = {"source": "folder", "root": "pictures", "tags": "tags.csv", "train": "train", "val": None}
    weights = "weights.pth" if (setting.training / "weights.pth").exists() else None
    layers = SMALL if setting.quick else {"data": changes | {"points": None}, "network": {"weights": weights}}
    for section, more in layers.items():
        values[section] |= more
    write_text(setting.training / "params.yaml", json.dumps(values))


def pack(root: Path, folder: Path, data: Data, *, count: int, most: int = 48 * 2**20) -> None:
    """Write some of the training images of `root`, with their tags, into tar files of `most` bytes, for `training`."""
    from dsrg.sources.scan import read_source

    settings = data.model_dump(exclude={"root", "size", "max_side", "points", "points_tags"}) | {"val": None}
    classes, checked = read_source(root, **settings)
    index, parts = checked.index.split("train"), [[]]
    for row in np.linspace(0, len(index) - 1, min(count, len(index))).astype(int):
        if sum((root / index.paths[other]).stat().st_size for other in parts[-1]) > most:
            parts.append([])
        parts[-1].append(row)
    folder.mkdir(parents=True, exist_ok=True)
    for number, rows in enumerate(parts):
        lines = ["image,tags"]
        with tarfile.open(folder / f"part{number:03}.tar", "w") as tar:
            for row in rows:
                path = root / index.paths[row]
                tar.add(path, path.name)
                tags = [name for name, shown in zip(classes, index.present[row, 1:], strict=True) if shown]
                lines.append(f"{path.name},{'|'.join(tags)}")
            text = "\n".join([*lines, ""]).encode()
            about = tarfile.TarInfo("tags.csv")
            about.size = len(text)
            tar.addfile(about, io.BytesIO(text))


# What the parts look at


def _pictures(setting: Setting, count: int) -> list[np.ndarray]:
    """Photographs uint8 (H, W, 3), as many as there are, or noise of VOC's size."""
    if setting.images is not None:
        return [read_image(path) for path in sorted(setting.images.glob("*.jpg"))[:count]]
    with tempfile.TemporaryDirectory() as folder:
        index = full_size.noise_images(Path(folder), count)
        return [index.image(row) for row in range(count)]


def _photos(setting: Setting, side: int) -> Tensor:
    """All photographs of the folder as squares, uint8 (N, 3, side, side); none without one."""
    if setting.images is None:
        return torch.empty(0, 3, side, side, dtype=torch.uint8)
    from dsrg.inference.preprocess import warp_to_square

    return warp_to_square(_pictures(setting, 400), side)


def _noise(seed: int, side: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randint(0, 256, (2, 3, 6, 6), generator=generator).float()
    return F.interpolate(coarse, (side, side), mode="bilinear", align_corners=True).to(torch.uint8)


def _batch(params: Params, count: int) -> Batch:
    """Of images of noise, with seeds."""
    size = params.data.size
    with tempfile.TemporaryDirectory() as folder:
        index = full_size.noise_images(Path(folder), count)
        options = {"size": size, "batch": count, "seed": 0, "augment": params.dsrg.augment}
        return Batches(index, labels=full_size.drawn_seeds(count, size), **options)[0]


# All of it


def _recipe(setting: Setting) -> str:
    return str(ROOT / f"recipes/{'shapes' if setting.quick else 'voc2012-vgg16'}.yaml")


QUICK = {"quick": lambda setting: setting.quick}
PARTS: dict[str, Callable[[Setting], dict]] = {
    "parity": parity,
    "growth": benchmark(growth, **QUICK),
    "crf": benchmark(crf, folder=lambda setting: setting.images, rounds=7, **QUICK),
    "step": benchmark(step, recipe=_recipe, batch=None, rounds=5, **QUICK),
    "variants": variants,
    "memory": memory,
    "throughput": supply,
    "estimate": whole,
    "predict": predict,
    "training": training,
}


def figures_of(path: Path) -> dict:
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def run(setting: Setting, out: Path, *, started: float, minutes: float) -> dict:
    """The parts that `out` lacks, each written when it is done; none is started after half of the minutes."""
    found = figures_of(out).get("parts", {})
    setting.until, setting.parts = started + 60 * minutes, found
    for name, part in PARTS.items():
        if _done(found, name):
            continue
        if time.monotonic() - started > 30 * minutes:
            break
        began = time.monotonic()
        print(f"{name} ...", flush=True)
        try:
            found[name] = part(setting) | {"took_s": time.monotonic() - began}
        except Exception as error:  # the other parts do not wait for it
            found[name] = {"failed": f"{type(error).__name__}: {' '.join(str(error).split())[:500]}"}
        write_figures(out, {"quick": setting.quick, "python": platform.python_version(), "parts": found})
    return found


def _done(found: dict, name: str) -> bool:
    return "failed" not in found.get(name, {"failed": ""}) and found[name].get("complete", True)


def leaves(value: object, name: str = "") -> dict[str, object]:
    """{"a": {"b": 1}} -> {"a: b": 1}, without spreads and machines: the table to send."""
    if not isinstance(value, dict):
        return {name: value}
    rows = {}
    for key, inner in value.items():
        if key not in ("machine", "min", "max", "min_s", "max_s") and "processor" not in key:
            rows |= leaves(inner, f"{name}: {key}" if name else key)
    return rows


def main(arguments: list[str] | None = None) -> dict | None:
    started = time.monotonic()
    parser = argparse.ArgumentParser(prog="python -m benchmarks.device", description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("device.json"), help="the JSON; gone on with where it exists")
    parser.add_argument("--minutes", type=float, default=9.0, help="of one call")
    parser.add_argument("--images", type=Path, help="a folder of JPEGs, for parity, CRF and speeds")
    parser.add_argument("--training", type=Path, help="a folder with parts (*.tar) of images and tags to train on")
    parser.add_argument(
        "--pack", type=Path, help="a folder VOC2012: pack --count of its images into --training, no more"
    )
    parser.add_argument("--count", type=int, default=600, help="of images to pack")
    parser.add_argument("--quick", action="store_true", help="small networks, few cases")
    given = parser.parse_args(arguments)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    setting = Setting(device=device, quick=given.quick, images=given.images, training=given.training)
    setting.params = load_params(_recipe(setting))
    if given.pack is not None:
        return pack(given.pack, given.training, setting.params.data, count=given.count)
    found = run(setting, given.out, started=started, minutes=given.minutes)
    print(f"| {json.dumps(machine())} | |\n|---|---|")
    for name, value in leaves(found).items():
        print(f"| {name} | {value:.4g} |" if isinstance(value, float) else f"| {name} | {value} |")
    left = [name for name in PARTS if not _done(found, name)]
    print(f"left: {', '.join(left)}; call it again" if left else "all parts are done", flush=True)
    return found


if __name__ == "__main__":
    main()
