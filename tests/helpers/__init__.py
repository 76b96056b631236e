"""What several test files share, named by purpose."""

import os
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
REAL_DATA = Path(os.environ.get("DSRG_REAL_DATA", ROOT.parent / "shared" / "data"))
REAL_VOC = REAL_DATA / "VOCdevkit" / "VOC2012"
REAL_CUES = REAL_DATA / "cues" / "localization_cues.pickle.gz"
