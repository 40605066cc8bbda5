"""What a check found."""

from __future__ import annotations

from dataclasses import dataclass

OK, WARN, MISSING, BROKEN = "ok", "warn", "missing", "broken"
INSTALL = "pip install -c constraints.txt -e ."
"""What to do where a package that crossview needs is missing or broken."""


@dataclass(frozen=True)
class Finding:
    """What a check found."""

    state: str
    """ok, warn (works, but not as it should), missing or broken."""
    found: str
    """What there is."""
    advice: str = ""
    """What to do; empty where there is nothing to do."""
