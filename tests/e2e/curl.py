"""curl where PATH has one; else this file run as a command: a client of its own process for the few options we use.

Floor: tests only. A fresh machine need not have curl; the bytes on the wire are the same.
"""

from __future__ import annotations

import argparse
import http.client
import shutil
import sys
from urllib.parse import urlsplit


def curl_command() -> list[str]:
    """The command and its fixed options; then come `-H NAME: VALUE`, `--data BODY` and the URL."""
    found = shutil.which("curl")
    if found is None:
        return [sys.executable, __file__]
    return [found, "--silent", "--show-error", "--no-buffer", "--noproxy", "*", "--max-time", "60"]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("-H", action="append", default=[])
    parser.add_argument("--data", required=True)
    parser.add_argument("url")
    options = parser.parse_args()
    parts = urlsplit(options.url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=60)
    headers = {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in options.H)}
    connection.request("POST", parts.path, options.data.encode(), headers)
    answer = connection.getresponse()
    while piece := answer.read1(65536):
        sys.stdout.buffer.write(piece)
        sys.stdout.flush()


if __name__ == "__main__":
    main()
