"""Curves of a training as dvc reads them: DVCLive's files, or nothing where dvc is not installed."""

from pathlib import Path


class Curves:
    """Appends named values at a step to `folder` (plots/metrics/NAME.tsv, metrics.json)."""

    def __init__(self, folder: Path, *, resume: bool) -> None:
        try:
            from dvclive import Live
        except ImportError:
            self._live = None
        else:
            self._live = Live(str(folder), resume=resume, save_dvc_exp=False, dvcyaml=None, report=None)

    def log(self, step: int, values: dict[str, float]) -> None:
        if self._live is None:
            return
        self._live.step = step
        for name, value in values.items():
            self._live.log_metric(name, value)
        self._live.make_summary()

    def close(self) -> None:
        if self._live is not None:
            self._live.end()
