"""Draw the demo data set in the VOC layout."""

from dsrg.sources.shapes import draw_dataset
from dsrg.stage import Stage, run_stage


def draw_shapes(stage: Stage) -> None:
    draw_dataset(stage.paths.shapes, stage.params.shapes)


if __name__ == "__main__":
    run_stage(draw_shapes)
