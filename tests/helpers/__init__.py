"""What several test files share, named by purpose."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
