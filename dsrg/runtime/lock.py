"""One at a time: locks on files, held by the kernel for a process and released when it dies, however it dies."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from dsrg.errors import InputError, RunError

WITHOUT_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS)
PATIENCE = 3.0  # seconds; one that was just told to stop may still be writing its checkpoint


def try_lock(path: Path, *, patience: float = 0) -> FileLock | None:
    """Lock `path`, made where it is missing, or None while another process has it for more than `patience` seconds.

    The file holds the owner's pid. Raises InputError on a file system without locks.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path, timeout=patience, poll_interval=0.05, fallback_to_soft=False)
    try:
        lock.acquire()
    except Timeout:
        return None
    except FileNotFoundError:  # its last owner has just removed the folder
        return try_lock(path, patience=patience)
    except OSError as error:
        if error.errno not in WITHOUT_LOCKS:
            raise
        raise InputError(
            f"{path.parent}: this file system cannot lock files ({error.strerror}); "
            "set DSRG_SCRATCH to a folder on a local disk"
        ) from None
    path.write_text(str(os.getpid()), encoding="ascii")
    return lock


@contextmanager
def one_writer(path: Path, what: str) -> Iterator[None]:
    """Hold the lock `path`, removed afterwards. Raises RunError with the other's pid when another has it."""
    if (lock := try_lock(path, patience=PATIENCE)) is None:
        owner = path.read_text(encoding="ascii") if path.exists() else ""
        raise RunError(
            f"{what} is being run by another process (pid {owner or 'unknown'}); "
            "wait for it or stop it, then run this again"
        )
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
        lock.release()
