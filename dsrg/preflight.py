"""What params name beside the data: weights, a network, points, ready maps, cues. `dsrg check` looks at them first.

The stages refuse the same, but some of them only after hours of training. Torch, which takes half a gigabyte of memory,
is imported by the last function alone.
"""

from dsrg.data.index import Index
from dsrg.errors import collecting
from dsrg.files import find_in_project, human_bytes
from dsrg.params import TRAININGS, Params
from dsrg.runtime.launcher import topology


def missing_files(params: Params) -> list[str]:
    """A line for each file and folder that is named, made use of, and not there."""
    return [
        f"{key}: {path}: not there; expected the path of a {'folder' if key == 'saliency.maps' else 'file'}"
        for key, path in _named(params).items()
        if not find_in_project(path).exists()
    ]


def unfit_files(params: Params, index: Index, classes: list[str]) -> list[str]:
    """Why the network cannot be made and filled, or seeds not be had from points, or ready cues or maps; and batches
    that the GPU here has no memory for.

    What is missing is not reported again; ImageNet weights are not fetched.
    """
    from dsrg.inference.seeding import ready_cues, ready_maps, ready_points
    from dsrg.networks.weights import untrained

    there = {key: path for key, path in _named(params).items() if find_in_project(path).exists()}
    train, problems = index.split("train"), []
    for training in TRAININGS:
        found: list[str] = []
        with collecting(found):
            untrained(params, training, classes=len(classes), weights=there.get(_weights_key(params, training)))
        own = getattr(params, training).network
        problems += [problem for line in found if (problem := f"{training}.{line}" if own else line) not in problems]
    if there.keys() >= {"seeds.cues", "seeds.cues_list"}:
        with collecting(problems):
            ready_cues(params.seeds, train, size=params.data.size, classes=classes)
    if "saliency.maps" in there:
        with collecting(problems):
            ready_maps(params.saliency, train.ids)
    if "data.points" in there:
        with collecting(problems):
            ready_points(params.data, index, classes)
    return problems or too_large_steps(params, classes=len(classes))


def too_large_steps(params: Params, *, classes: int) -> list[str]:
    """A line for each training whose step takes more memory than the GPU has free; none where there is no GPU."""
    from dsrg.training.memory import free_bytes, step_bytes

    gpus, problems, shared = free_bytes(), [], topology()
    if not gpus:
        return []
    free, processes = min(gpus), shared.nodes * (shared.devices or len(gpus))
    for training in TRAININGS:
        settings = getattr(params, training)
        images = -(-settings.batch // processes)
        needed = step_bytes(params, training, classes=classes, images=images)
        if needed > free:
            half = "" if settings.precision == "bf16" else f", set {training}.precision to bf16"
            problems.append(
                f"{training}.batch: a step on {images} images of {params.data.size} pixels takes {human_bytes(needed)} "
                f"or more, but the GPU has {human_bytes(free)} free; lower {training}.batch or data.size{half}, or "
                "train on more GPUs"
            )
    return problems


def _named(params: Params) -> dict[str, str]:
    """Paths by the params that name them: cues make maps needless."""
    named = {_weights_key(params, training): params.network_of(training).weights for training in TRAININGS}
    named["data.points"] = params.data.points
    if params.seeds.cues is not None:
        named |= {"seeds.cues": params.seeds.cues, "seeds.cues_list": params.seeds.cues_list}
    if params.saliency.method == "maps" and (params.seeds.cues is None or params.seeds.cues_use == "foreground"):
        named["saliency.maps"] = params.saliency.maps
    return {key: path for key, path in named.items() if path not in (None, "imagenet")}


def _weights_key(params: Params, training: str) -> str:
    own = getattr(params, training).network or {}
    return f"{training}.network.weights" if "weights" in own else "network.weights"
