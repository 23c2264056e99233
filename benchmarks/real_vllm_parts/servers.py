"""Two real vLLM servers on the CPU with the `small` model: installed, made, started, emptied, asked.

Floor: processes and HTTP on the loopback. Installer and launcher are those of the end-to-end tests (tests/real_vllm).
"""

from __future__ import annotations

import hashlib
import json
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from benchmarks.overhead_parts.processes import ROOT, Failed, run_to_end
from benchmarks.real_vllm_parts.conversations import Message
from benchmarks.soak_parts.stack import ENGINE_MODEL
from tests.real_vllm.servers import VENV, launch_vllm, wait_healthy
from tests.servers import Server, ServerFailed

BLOCK_TOKENS = 32  # the least that vLLM's CPU attention takes
MODEL = ROOT / ".work" / "models" / "small"
INSTALL_SECONDS = 1800.0  # 0.5 GB of wheels over any line
MODEL_SECONDS = 300.0
RESET_SECONDS = 30.0
"""For the last blocks of finished requests to be let go of; vLLM refuses to forget while any is held."""
ANSWER_SECONDS = 120.0
"""For a call of ours: the first prompt of a process on a busy machine takes many times as long as a later one."""
_LONGEST_PROMPT = 8_192  # tokens, with the answer
_WARM_WORDS = 2_000
_POLL_SECONDS = 0.1


def install(folder: Path) -> None:
    """vLLM and the model, where they are missing. Logs go to the folder. Raises Failed."""
    here = ROOT / "tests" / "real_vllm"
    run_to_end([here / "install.sh"], folder / "install.log", INSTALL_SECONDS)
    script, stamp = here / "make_tiny_model.py", MODEL / ".made"
    wanted = hashlib.sha256(script.read_bytes()).hexdigest()
    if not stamp.is_file() or stamp.read_text() != wanted:
        command: list[str | Path] = [VENV / "bin" / "python", script, MODEL, "--preset", "small"]
        run_to_end(command, folder / "model.log", MODEL_SECONDS)
        stamp.write_text(wanted)


@contextmanager
def running(count: int, kv_tokens: int) -> Iterator[list[Server]]:
    """Healthy servers with a cache of so many tokens each. Raises Failed."""
    with ExitStack() as stack:
        try:
            servers = []
            for _ in range(count):
                server = launch_vllm(
                    env={"VLLM_SERVER_DEV_MODE": "1"},  # /reset_prefix_cache
                    model=str(MODEL),  # over the launcher's: the last one counts
                    served_model_name=ENGINE_MODEL,
                    max_model_len=str(_LONGEST_PROMPT),
                    num_gpu_blocks_override=str(kv_tokens // BLOCK_TOKENS),
                    dtype=_dtype(),
                )
                stack.callback(server.stop)
                servers.append(server)
            for server in servers:
                wait_healthy(server)
        except ServerFailed as error:
            raise Failed(str(error)) from None
        yield servers


def warm_up(server: Server) -> None:
    """One long prompt: the first one of a process is slower than all others. Raises Failed."""
    _post(server, "/v1/completions", {"prompt": "warm " * _WARM_WORDS, "max_tokens": 4})


def cold_seconds(server: Server, tokens: int) -> float:
    """Time to first token of a prompt of about so many tokens that is not in its cache, when nothing else is done: the
    shorter of two. Raises Failed."""
    took = []
    for number in range(2):
        began = time.monotonic()
        _post(server, "/v1/completions", {"prompt": f"cold {number} " + "word " * tokens, "max_tokens": 1})
        took.append(time.monotonic() - began)
    return min(took)


def _dtype() -> str:
    """What the processor computes fast: without instructions for it, bfloat16 takes five times as long as float32."""
    flags = Path("/proc/cpuinfo").read_text()
    return "bfloat16" if "avx512_bf16" in flags or "amx_bf16" in flags else "float32"


def forget(server: Server) -> None:
    """Empties its prefix cache. Raises Failed when it will not."""
    deadline = time.monotonic() + RESET_SECONDS
    while not _post(server, "/reset_prefix_cache", {}).get("success"):
        if time.monotonic() > deadline:
            raise Failed(f"vLLM did not empty its cache within {RESET_SECONDS:.0f} s")
        time.sleep(_POLL_SECONDS)


def token_ids(server: Server, messages: Sequence[Message]) -> list[int]:
    """The prompt as the engine sees it. Raises Failed."""
    return [int(token) for token in _post(server, "/tokenize", {"messages": list(messages)})["tokens"]]


def _post(server: Server, path: str, fields: dict[str, Any]) -> dict[str, Any]:
    body = json.dumps({"model": ENGINE_MODEL, **fields}).encode()
    request = urllib.request.Request(server.url + path, body, {"content-type": "application/json"})  # noqa: S310 a loopback address of ours
    try:
        with urllib.request.urlopen(request, timeout=ANSWER_SECONDS) as answer:  # noqa: S310 the same
            read: dict[str, Any] = json.loads(answer.read())
            return read
    except (OSError, ValueError) as error:
        raise Failed(f"vLLM does not answer {path}: {error}") from None
