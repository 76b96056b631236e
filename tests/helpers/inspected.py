"""A run as `dsrg inspect` opens it, and maps to make seeds of."""

import numpy as np
import torch
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from dsrg.artifacts.seeds_h5 import SeedRow
from dsrg.inspect.reseeding import SeedMaps
from dsrg.inspect.run import Run
from dsrg.params import SeedParams, load_params
from dsrg.project import load_project
from helpers import ROOT


def opened() -> Run:
    """The project in the working folder."""
    return Run(load_project())


def imported(project: Run) -> list[SeedRow]:
    """The project's seeds as rows without maps."""
    side = project.seeds.seeds.shape[1]
    none = np.full((side, side), np.nan), np.zeros((0, side, side)), np.zeros(0, np.uint8)
    columns = zip(project.seeds.ids, project.seeds.present, project.seeds.seeds, strict=True)
    return [SeedRow(*row, *none) for row in columns]


def seed_settings(**changes: object) -> SeedParams:
    chosen = load_params(ROOT / "recipes" / "shapes.yaml").seeds.model_dump()
    crf = chosen["crf"] | {"use": changes.pop("use", chosen["crf"]["use"])}
    return SeedParams.model_validate(chosen | changes | {"crf": crf})


def drawn_maps(cams: np.ndarray, saliency: np.ndarray, labels: np.ndarray, tags: list[int]) -> SeedMaps:
    """Maps of one image as the stage has them: highest value 1 or 0, float16, untagged classes 0."""
    cams = torch.from_numpy(cams)[None].clone()
    present = torch.zeros(1, cams.shape[1] + 1, dtype=torch.bool)
    present[0, [0, *tags]] = True
    highest = cams.amax(dim=(2, 3), keepdim=True)
    cams = (cams / highest.clamp(min=1e-6)).half().float() * present[:, 1:, None, None]
    labels = np.where(present[0].numpy()[labels], labels, 0)  # a CRF chooses among the tags
    return SeedMaps(cams, torch.from_numpy(saliency)[None].half().float(), present, torch.from_numpy(labels)[None])


values = st.one_of(st.sampled_from([0.0, 0.5, 0.25, 1.0]), st.floats(0, 1, width=16))
seed_maps = st.builds(
    drawn_maps,
    arrays(np.float32, (3, 3, 3), elements=values.map(np.float32)),
    arrays(np.float32, (3, 3), elements=values.map(np.float32)),
    arrays(np.uint8, (3, 3), elements=st.integers(0, 3)),
    st.lists(st.integers(1, 3), unique=True),
)
