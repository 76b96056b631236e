"""The artifacts of another run, a DVC experiment or a commit, fetched from DVC's cache to be seen beside your own."""

from pathlib import Path

from dsrg.errors import InputError
from dsrg.inspect.run import Run
from dsrg.params import load_params
from dsrg.project import Paths, Project

WANTED = ("index", "classes", "ground_truth", "masks", "seeds", "growth", "dsrg", "pseudo_labels", "retrain")


def run_at(revision: str, folder: Path, project: Project) -> Run:
    """The run of a project at a revision, its files copied into `folder`; images are read from where they are now.

    What that run had not made is missing there too. Raises InputError when there is no such revision, and when its
    params or its index cannot be had.
    """
    from dvc.exceptions import DvcException
    from dvc.repo import Repo
    from dvc.scm import resolve_rev

    own = vars(project.paths)
    try:
        with Repo() as repo, repo.switch(resolve_rev(repo.scm, revision)):
            for path in (Path("params.yaml"), *(own[key] for key in WANTED)):
                if repo.dvcfs.exists(path.as_posix()):
                    (folder / path).parent.mkdir(parents=True, exist_ok=True)
                    repo.dvcfs.get(path.as_posix(), str(folder / path), recursive=True)
    except DvcException as error:
        raise InputError(f"--rev {revision}: {error}; `dvc exp list` and `git log` name what there is") from None
    except OSError as error:
        raise InputError(
            f"--rev {revision}: not all of it is in DVC's cache ({error}); run `dvc fetch` first"
        ) from None
    params = load_params(folder / "params.yaml")
    there = params.model_copy(update={"data": params.data.model_copy(update={"root": str(project.data_root)})})
    return Run(Project(there, Paths(**{key: folder / path for key, path in own.items()})), name=revision)
