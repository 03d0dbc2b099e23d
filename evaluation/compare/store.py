"""Scores that were computed before: one SQLite file, so that a killed comparison goes on where it was.

A key is the content of a log file, the rows of it that were chosen, and the hash of the reward; so scores are
found again after a run was moved, and are not found where anything changed that decides them. SQLite commits
whole transactions: what a killed process wrote is there or is not.
"""

from __future__ import annotations

import hashlib
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from glyphrl import __version__
from glyphrl.errors import UserError

STORE = "scores.sqlite"
_COMMIT_EVERY = 1.0


@dataclass(frozen=True)
class SliceKey:
    """Rows of one file that one reward scores together.

    Attributes:
        digest: Of the log file.
        start: Position of the first row among the file's chosen rows.
        rows: How many there are.
        reward: Hash of the reward.
    """

    digest: str
    start: int
    rows: int
    reward: str


@dataclass(frozen=True)
class Kept:
    """What is stored for a slice."""

    values: np.ndarray
    seconds: float


class ScoreStore:
    """Scores by slice, in a file or only in memory. Used from one thread."""

    def __init__(self, connection: sqlite3.Connection, where: str | None) -> None:
        """Made by `open_store`."""
        self._connection = connection
        self._chosen = hashlib.sha256(f"{__version__}\n{where or ''}".encode()).hexdigest()[:16]
        self._committed = time.monotonic()

    def get(self, key: SliceKey) -> Kept | None:
        """The scores of a slice, None where they are not known."""
        row = self._connection.execute(
            "SELECT scores, seconds FROM slices WHERE digest = ? AND chosen = ? AND start = ? AND reward = ?",
            (key.digest, self._chosen, key.start, key.reward),
        ).fetchone()
        if row is None or len(row[0]) != 8 * key.rows:
            return None
        return Kept(np.frombuffer(row[0], "<f8"), float(row[1]))

    def put(self, key: SliceKey, kept: Kept) -> None:
        """Stores the scores of a slice; they are on the disk a second later, or when the store closes."""
        self._connection.execute(
            "INSERT OR REPLACE INTO slices VALUES (?, ?, ?, ?, ?, ?)",
            (
                key.digest,
                self._chosen,
                key.start,
                key.reward,
                kept.values.astype("<f8").tobytes(),
                kept.seconds,
            ),
        )
        if time.monotonic() - self._committed > _COMMIT_EVERY:
            self.commit()

    def commit(self) -> None:
        """Makes everything that was put last."""
        self._connection.commit()
        self._committed = time.monotonic()


@contextmanager
def open_store(folder: Path | None, where: str | None) -> Iterator[ScoreStore]:
    """Opens the store of a folder; None: one in memory.

    Raises:
        UserError: The folder is a file, or holds a file of that name that is no store.
    """
    path = ":memory:"
    if folder is not None:
        if folder.exists() and not folder.is_dir():
            raise UserError(f"--out {folder} is a file; expected a folder, or a name that is free")
        folder.mkdir(parents=True, exist_ok=True)
        path = str(folder / STORE)
    connection = sqlite3.connect(path, timeout=60.0)
    try:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = NORMAL")
            connection.execute(
                "CREATE TABLE IF NOT EXISTS slices (digest TEXT, chosen TEXT, start INTEGER, reward TEXT, "
                "scores BLOB NOT NULL, seconds REAL NOT NULL, PRIMARY KEY (digest, chosen, start, reward))"
            )
        except sqlite3.DatabaseError as error:
            raise UserError(f"{path} cannot be read as scores: {error}; remove it") from error
        store = ScoreStore(connection, where)
        try:
            yield store
        finally:
            store.commit()
    finally:
        connection.close()
