"""What params name beside the data: weights, a network, ready maps, cues. `dsrg check` looks at them before any stage.

The stages refuse the same, but some of them only after hours of training. Torch, which takes half a gigabyte of memory,
is imported by the last function alone.
"""

from collections.abc import Callable

from dsrg.data.index import Index
from dsrg.errors import InputError
from dsrg.files import find_in_project
from dsrg.params import Params


def missing_files(params: Params) -> list[str]:
    """A line for each file and folder that is named and not there."""
    named = {"seeds.cues": params.seeds.cues, "seeds.cues_list": params.seeds.cues_list}
    if params.network.weights != "imagenet":
        named["network.weights"] = params.network.weights
    if params.saliency.method == "maps":
        named["saliency.maps"] = params.saliency.maps
    return [
        f"{key}: {path}: not there; expected the path of a {'folder' if key == 'saliency.maps' else 'file'}"
        for key, path in named.items()
        if path is not None and not find_in_project(path).exists()
    ]


def unfit_files(params: Params, index: Index, classes: list[str]) -> list[str]:
    """Why the network cannot be made and filled, or seeds not be had from ready cues or maps; all files are there.

    ImageNet weights are not fetched.
    """
    from dsrg.artifacts.cues import read_cues
    from dsrg.inference.seeding import ready_maps
    from dsrg.networks.network import grid_size
    from dsrg.networks.weights import initial_segmenter

    network, train, seeds = params.network.model_dump(), index.split("train"), params.seeds
    if network["weights"] == "imagenet":
        network["weights"] = None
    problems = _problems(lambda: initial_segmenter(classes=len(classes), **network))
    if seeds.cues is not None:
        files, grid = [find_in_project(path) for path in (seeds.cues, seeds.cues_list)], grid_size(params.data.size)
        problems += _problems(lambda: read_cues(*files, train, grid=grid, classes=classes, conflict="highest"))
    elif params.saliency.method == "maps":
        problems += _problems(lambda: ready_maps(params.saliency, train.ids))
    return problems


def _problems(make: Callable[[], object]) -> list[str]:
    try:
        make()
    except InputError as error:
        return list(error.problems)
    return []
