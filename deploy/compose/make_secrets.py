"""Makes the passwords of this host once, and gives each to its reader alone.

Each folder is a volume that only its reader mounts: gateway/ (the gateway, 10001), postgres/ and grafana/ (472).
"""

from __future__ import annotations

import os
import secrets
import sys
from pathlib import Path

GATEWAY, GRAFANA = 10001, 472  # the users of the images


def main(root: Path, spool: Path) -> None:
    """Makes what is missing; what is there stays, so a restart changes nobody's password."""
    password = _once(root / "postgres" / "password", secrets.token_hex(24), 0)  # the entrypoint reads it as root
    _once(root / "gateway" / "pgpass", f"postgres:5432:promptlane:promptlane:{password}", GATEWAY)
    _once(root / "gateway" / "promptlane.secret", secrets.token_hex(32), GATEWAY)
    _once(root / "grafana" / "password", secrets.token_hex(16), GRAFANA)
    os.chown(spool, GATEWAY, GATEWAY)  # a new volume belongs to root


def _once(path: Path, text: str, user: int) -> str:
    """The file's text, written if it is not there: aside and then named, so that half a file never counts."""
    if not path.exists():
        aside = path.with_suffix(".new")
        aside.write_text(text + "\n")
        aside.chmod(0o600)  # libpq ignores a password file that others may read
        os.chown(aside, user, user)
        aside.rename(path)
    os.chown(path.parent, user, user)
    return path.read_text().strip()


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
