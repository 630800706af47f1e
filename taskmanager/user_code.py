"""The code of a job, installed where its functions run: in slots, job masters, and where graphs are captured."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class UserCode:
    """What a job's functions import, besides what is installed everywhere."""

    artefacts: tuple[str, ...] = ()
    """Ids of uploaded archives and scripts (state/artefacts.py)."""
    artefact_storage: str = ""
    """Directory or URL of the store that has them."""
    python_path: tuple[str, ...] = ()
    """Directories on this machine."""
    requirements: tuple[str, ...] = ()
    """Lines of a requirements.txt."""
