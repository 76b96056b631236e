"""One at a time: locks on files, held by the kernel for a process and released when it dies, however it dies."""

import errno
import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from dsrg.errors import InputError, RunError

WITHOUT_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS)
PATIENCE = 3.0  # seconds; one that was just told to stop may still be writing its checkpoint


def try_lock(path: Path) -> IO[str] | None:
    """Lock `path`, made where it is missing: the open file, whose closing unlocks it, or None while another has it.

    The file holds the owner's pid. Raises InputError on a file system without locks.
    """
    while True:
        path.parent.mkdir(parents=True, exist_ok=True)
        with suppress(FileNotFoundError):  # where its last owner removes it between two of our calls
            file = open(path, "a+", encoding="ascii")  # noqa: SIM115 - open as long as the lock is held
            if not _locked(file):
                file.close()
                return None
            if os.path.samestat(os.fstat(file.fileno()), path.stat()):
                break
            file.close()
    file.truncate(0)
    file.write(str(os.getpid()))
    file.flush()
    return file


def _locked(file: IO[str]) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in WITHOUT_LOCKS:
            raise
        raise InputError(
            f"{Path(file.name).parent}: this file system cannot lock files ({error.strerror}); "
            "set DSRG_SCRATCH to a folder on a local disk"
        ) from None


@contextmanager
def one_writer(path: Path, what: str) -> Iterator[None]:
    """Hold the lock `path`, removed afterwards. Raises RunError with the other's pid when another has it."""
    until = time.monotonic() + PATIENCE
    while (file := try_lock(path)) is None:
        if time.monotonic() > until:
            owner = path.read_text(encoding="ascii") if path.exists() else ""
            raise RunError(
                f"{what} is being run by another process (pid {owner or 'unknown'}); "
                "wait for it or stop it, then run this again"
            )
        time.sleep(0.05)
    with file:
        try:
            yield
        finally:
            path.unlink(missing_ok=True)
