"""Where a study is kept, so that several processes and machines work on it and none of its trials is lost."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import random
import socket
import time
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .locking import locked

if TYPE_CHECKING:
    from optuna import Study
    from optuna.storages import BaseStorage, RDBStorage
    from optuna.trial import FrozenTrial

_TRIES = 6
"""How often the tables of a new database are made, if other processes make them as well."""

FORMS = "FILE.db or sqlite:///FILE, postgresql://USER@HOST/DATABASE, mysql://..., FILE.journal, redis://HOST"


def storage_at(place: str, heartbeat: int = 10) -> BaseStorage:
    """Optuna's storage for an address or a file.

    Args:
        place: an address as SQLAlchemy has it, `redis://...`, a journal file (`.journal` or `.log`) or a SQLite file.
        heartbeat: seconds between two signs of life of a trial in a database; after three times that without one it has
            failed, and is tried again. In a journal it has failed once its process is gone, seen on the same machine.

    Raises:
        ValueError: there is no such kind of storage, or a package is missing for it.
        OSError: the file or the server cannot be reached.
    """
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend, JournalRedisBackend
    from sqlalchemy.exc import ArgumentError, NoSuchModuleError, SQLAlchemyError

    if place.startswith("redis://"):
        try:
            return JournalStorage(JournalRedisBackend(place))
        except ImportError as error:
            raise ValueError(f"storage {place!r} needs redis; run: pip install redis") from error
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
    try:
        with _alone(url):
            return _connected(url, heartbeat)
    except (ArgumentError, NoSuchModuleError) as error:
        raise ValueError(f"storage {place!r}: {error}; give {FORMS}") from error
    except ImportError as error:
        driver = getattr(error.__cause__, "name", None) or error.name
        raise ValueError(f"storage {place!r} needs the package {driver}, which is not installed") from error
    except (SQLAlchemyError, OSError) as error:
        raise OSError(f"storage {place!r} cannot be reached: {str(error).splitlines()[0]}") from error


def _alone(url: str) -> contextlib.AbstractContextManager[None]:
    """Within it no other process makes the tables of the same SQLite file, which would fail in all but one."""
    from sqlalchemy.engine import make_url

    address = make_url(url)
    if address.get_backend_name() != "sqlite" or address.database in (None, "", ":memory:"):
        return contextlib.nullcontext()
    path = Path(address.database)
    return locked(path.with_name(f".{path.name}.lock"), str(path), wait=True)


def _connected(url: str, heartbeat: int) -> RDBStorage:
    """The storage of a database; where other processes make its tables at the same time, it tries again."""
    from optuna.exceptions import ExperimentalWarning, StorageInternalError
    from optuna.storages import RDBStorage, RetryHeartbeatStaleTrialCallback
    from sqlalchemy.exc import DatabaseError

    waits = {"connect_args": {"timeout": 60}} if url.startswith("sqlite") else {"pool_pre_ping": True}
    for attempt in range(_TRIES):
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
        except (DatabaseError, StorageInternalError):
            if attempt == _TRIES - 1 or not _answers(url):
                raise
            time.sleep(random.uniform(0, 0.1 * 2**attempt))
    raise AssertionError("the last attempt returns or raises")


def _answers(url: str) -> bool:
    """Whether the database is there, whatever it said."""
    from sqlalchemy import create_engine
    from sqlalchemy.exc import SQLAlchemyError

    engine = create_engine(url)
    try:
        engine.connect().close()
    except SQLAlchemyError:
        return False
    finally:
        engine.dispose()
    return True


def joined_study(name: str, told: dict[str, Any], **made: Any) -> Study:
    """The study of this name, which is begun where there is none; of several processes one begins it.

    Args:
        name: of the study.
        told: what all of its processes have to agree on.
        made: what `optuna.create_study` takes beside the name.

    Raises:
        ValueError: it was begun with something else.
    """
    import optuna

    try:
        study = optuna.create_study(study_name=name, **made)
        study.set_user_attr("told", told)
        return study
    except optuna.exceptions.DuplicatedStudyError:
        study = optuna.load_study(study_name=name, **{key: one for key, one in made.items() if key != "direction"})
    for _ in range(50):
        if (before := study.user_attrs.get("told")) is not None:
            break
        time.sleep(0.1)  # the process that began it is about to say it
    else:
        study.set_user_attr("told", told)  # it was killed before it did
        return study
    for key in told:
        if before.get(key) != told[key]:
            raise ValueError(
                f"the study {name!r} was begun with {key} {before.get(key)!r}, not {told[key]!r}; "
                "give this one another name (--study) or another storage"
            )
    return study


def here() -> dict[str, Any]:
    """This process, as a trial remembers it."""
    return {"host": socket.gethostname(), "pid": os.getpid()}


def take_back(study: Study, storage: BaseStorage) -> None:
    """Fails the trials whose process is gone, and queues them again; for databases heartbeats tell."""
    from optuna.storages import RDBStorage, fail_stale_trials
    from optuna.trial import TrialState

    if isinstance(storage, RDBStorage):
        fail_stale_trials(study)
        return
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        process = trial.user_attrs.get("process", {})
        if process.get("host") == socket.gethostname() and not _is_alive(process["pid"]):
            _queue_again(study, trial)


def give_back(study: Study, number: int) -> None:
    """Fails a trial that was broken off and queues it again, so that nobody waits for a sign of its life."""
    trial = study.get_trials(deepcopy=False)[number]
    if trial.state.name in ("RUNNING", "FAIL"):
        _queue_again(study, trial)


def _queue_again(study: Study, trial: FrozenTrial) -> None:
    from optuna.storages import RetryHeartbeatStaleTrialCallback
    from optuna.trial import TrialState

    with contextlib.suppress(ValueError):  # another process was faster
        if trial.state != TrialState.FAIL:
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
