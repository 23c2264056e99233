"""Which form of the product is tested: with COMPILED=FOLDER what `deploy.compiled.build` has made there.

Floor: tests only. It holds for this process and for those that tests start, and has to be imported before anything of
the product is.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from deploy.compiled.build import running_from

FOLDER = os.environ.get("COMPILED", "")

if FOLDER:
    os.environ.update(running_from(Path(FOLDER)))
    sys.path.insert(0, os.environ["PYTHONPATH"])

import policies  # noqa: E402, F401  # now: pytest is going to put the checkout first
import router  # noqa: E402
import router.gateway  # noqa: E402

FORM = str(router.gateway.__file__)
"""The file that holds what is tested."""
