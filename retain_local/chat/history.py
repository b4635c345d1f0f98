"""What was typed in earlier chats, in a file that only its owner can read."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable
from pathlib import Path

from prompt_toolkit.history import FileHistory

LONGEST = 4_000  # characters: what is longer was pasted, and nobody looks for it with the arrow keys

_OWNER_ONLY = 0o600

logger = logging.getLogger("retain_local")


class PrivateHistory(FileHistory):
    """A history in a file, for which a chat never ends: what cannot be read or written is said once, and left out.

    Parameters
    ----------
    path : the file; made when the first line is stored.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._is_usable = True

    def load_history_strings(self) -> Iterable[str]:
        """What the file holds, the newest first."""
        try:
            return super().load_history_strings()
        except OSError as error:
            self._give_up(error)
            return []

    def store_string(self, string: str) -> None:
        """Add what was typed to the file, unless it is longer than `LONGEST`."""
        if not self._is_usable or len(string) > LONGEST:
            return
        try:
            os.close(os.open(self.filename, os.O_CREAT | os.O_APPEND | os.O_WRONLY, _OWNER_ONLY))
            os.chmod(self.filename, _OWNER_ONLY)  # files of earlier versions were for everybody
            super().store_string(string)
        except OSError as error:
            self._give_up(error)

    def _give_up(self, error: OSError) -> None:
        self._is_usable = False
        logger.warning("what you type is not remembered: %s: %s", self.filename, error.strerror or error)
