"""`python -m benchmarks.engine`: one simulated vLLM server in this process.

Floor: arguments, signals and the end of the process; everything else is in `server.py`.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import sys
import threading
from collections.abc import Callable
from dataclasses import MISSING, fields

from benchmarks.engine.config import EngineConfig
from benchmarks.engine.server import running_server

STDIN = 0

DESCRIPTION = """\
A simulated vLLM server: the routes, bodies, errors, streams and metrics of a real one, with a KV-cache model, and
answers that depend on nothing but the prompt. It needs no GPU and no model files.

When it listens it prints one line:  engine ready on http://HOST:PORT
(after  engine control on http://HOST:PORT  when there is a control port).
"""

EPILOG = """\
Break it while it runs:
  curl -X POST $URL/fault -d '{"kind": "die-mid-stream", "after_chunks": 5, "count": 1}'
  kinds: hang, slow (factor), refuse, error (status, message), die-mid-stream, silent, abort, none
  every kind: seconds (ends by itself), count (how many requests), every (one of so many), paths (only these)
  refuse closes the port: undo it through --control-port, or bound it with seconds.

Look inside:
  GET /debug/requests   the last 1000 requests, headers and bodies as they arrived   (POST /debug/clear)
  POST /debug/take      those that have ended, each once
  GET /debug/state      running, waiting, held, aborted_total, finished_total, KV blocks, fault
"""

HELP = {
    "model": "the model's name: the only one it serves",
    "host": "address to listen on",
    "port": "0 picks a free one",
    "control_port": "a second port with the same routes, which `refuse` never closes; 0 picks a free one",
    "prefill_tokens_per_second": "prompt tokens computed per second",
    "decode_step_seconds": "seconds from one token to the next of a sequence that is alone",
    "kv_blocks": "capacity of the KV cache in blocks",
    "block_size": "tokens of a block",
    "max_num_seqs": "sequences in one batch",
    "max_num_queued_reqs": "requests in the engine, running and waiting, above which new ones get a 503",
    "max_model_len": "tokens of prompt and output together",
    "wake_seconds": "how long POST /wake_up takes",
    "reply_tokens": "tokens of a chat answer that is not cut short",
    "seed": "another seed, other answers",
    "keep_alive_seconds": "an idle connection is closed after so long",
    "computes": "text, vectors (embeddings, rerank, score) or both, where a real server has one of the two",
}

CHOICES = {"computes": ("text", "vectors", "both")}


def parser() -> argparse.ArgumentParser:
    result = argparse.ArgumentParser(
        prog="python -m benchmarks.engine",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    for field in fields(EngineConfig):
        default = None if field.default is MISSING else field.default
        kind = type(default) if default is not None else int
        shown = HELP[field.name] + ("" if default is None else f" (default: {default})")
        option, choices = f"--{field.name.replace('_', '-')}", CHOICES.get(field.name)
        result.add_argument(option, type=kind, default=default, choices=choices, metavar="X", help=shown)
    result.add_argument("--exit-with-stdin", action="store_true", help="end when standard input closes")
    return result


async def serve(config: EngineConfig) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    async with running_server(config) as server:
        if server.control is not None:
            print(f"engine control on {server.control.url}")
        print(f"engine ready on {server.main.url}", flush=True)
        await stop.wait()


def _end_with_stdin() -> None:
    """The parent holds the other end of the pipe: when it dies, however it dies, this process goes too."""
    while os.read(STDIN, 4096):
        pass
    os._exit(0)


def main(arguments: list[str] | None = None) -> int:
    options = vars(parser().parse_args(arguments))
    if options.pop("exit_with_stdin"):
        threading.Thread(target=_end_with_stdin, name="parent watch", daemon=True).start()
    try:
        import uvloop

        factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    except ImportError:  # Windows has none
        factory = asyncio.new_event_loop
    try:
        with asyncio.Runner(loop_factory=factory) as runner:
            runner.run(serve(EngineConfig(**options)))
    except OSError as error:
        print(f"engine cannot listen: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
