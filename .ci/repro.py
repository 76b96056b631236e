"""`dvc repro` by DVC's library: the same work and messages, but without the command's advice to push the results."""

import sys

from dvc.exceptions import DvcException
from dvc.repo import Repo

try:
    with Repo() as repo:
        if not repo.reproduce(sys.argv[1:] or None):
            print("Data and pipelines are up to date.")
except (DvcException, OSError) as error:
    cause = f": {error.__cause__}" if error.__cause__ else ""
    sys.exit(f"ERROR: {error}{cause}")
except KeyboardInterrupt:
    sys.exit("ERROR: interrupted")
