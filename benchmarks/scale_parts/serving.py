"""The gateway process with a configuration of any size: `python -m benchmarks.scale_parts.serving FILE`.

Floor: benchmarks. As `promptlane serve`, but the file is JSON and is read as such: a configuration file has at most
500,000 values (`router.config.yaml_file`), which 100,000 tenants exceed. Checked is what `Config` checks.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from router.config import Config
from router.serve import serve


def main(path: Path) -> None:
    serve(path, Config.model_validate(json.loads(path.read_bytes())))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
