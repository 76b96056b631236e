"""Programs that measure: each prints a table and writes JSON. None is part of the pipeline or of the timed tests."""

from pathlib import Path

RESULTS = Path(__file__).parent / "results"
