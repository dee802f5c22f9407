"""Where a study is kept, so that several processes and machines work on it and none of its trials is lost."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import socket
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from optuna import Study
    from optuna.storages import BaseStorage

FORMS = "FILE.db or sqlite:///FILE, postgresql://USER@HOST/DATABASE, mysql://..., FILE.journal, redis://HOST"


def storage_at(place: str, heartbeat: int = 10) -> BaseStorage:
    """Optuna's storage for an address or a file.

    Args:
        place: an address as SQLAlchemy has it, `redis://...`, a journal file (`.journal` or `.log`) or a SQLite file.
        heartbeat: seconds between two signs of life of a trial in a database; after three times that without one it has
            failed, and is tried again. In a journal it has failed once its process is gone, seen on the same machine.

    Raises:
        ValueError: there is no such kind of storage.
        OSError: the file or the server cannot be reached.
    """
    from optuna.exceptions import ExperimentalWarning
    from optuna.storages import JournalStorage, RDBStorage, RetryHeartbeatStaleTrialCallback
    from optuna.storages.journal import JournalFileBackend, JournalRedisBackend
    from sqlalchemy.exc import ArgumentError, NoSuchModuleError, SQLAlchemyError

    if place.startswith("redis://"):
        return JournalStorage(JournalRedisBackend(place))
    if "://" not in place:
        path = Path(place)
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix in (".journal", ".log"):
            return JournalStorage(JournalFileBackend(str(path)))
        if path.suffix not in (".db", ".sqlite", ".sqlite3"):
            raise ValueError(f"storage {place!r} is neither an address nor a file of a known kind; give {FORMS}")
        place = f"sqlite:///{path}"
    url = place
    if place.startswith("postgresql://") and importlib.util.find_spec("psycopg2") is None:
        url = place.replace("postgresql://", "postgresql+psycopg://", 1)
    waits = {"connect_args": {"timeout": 60}} if place.startswith("sqlite") else {"pool_pre_ping": True}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            return RDBStorage(
                url,
                engine_kwargs=waits,
                heartbeat_interval=heartbeat,
                grace_period=3 * heartbeat,
                heartbeat_stale_trial_callback=RetryHeartbeatStaleTrialCallback(),
            )
    except (ArgumentError, NoSuchModuleError) as error:
        raise ValueError(f"storage {place!r}: {error}; give {FORMS}") from error
    except SQLAlchemyError as error:
        raise OSError(f"storage {place!r} cannot be reached: {str(error).splitlines()[0]}") from error


def here() -> dict[str, Any]:
    """This process, as a trial remembers it."""
    return {"host": socket.gethostname(), "pid": os.getpid()}


def take_back(study: Study, storage: BaseStorage) -> None:
    """Fails the trials whose process is gone, and queues them again; for databases heartbeats tell."""
    from optuna.storages import RDBStorage, RetryHeartbeatStaleTrialCallback, fail_stale_trials
    from optuna.trial import TrialState

    if isinstance(storage, RDBStorage):
        fail_stale_trials(study)
        return
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        process = trial.user_attrs.get("process", {})
        if process.get("host") == socket.gethostname() and not _is_alive(process["pid"]):
            with contextlib.suppress(ValueError):  # another process was faster
                study.tell(trial.number, state=TrialState.FAIL)
                RetryHeartbeatStaleTrialCallback()(study, trial)


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
