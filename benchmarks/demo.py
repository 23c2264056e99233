"""`make demo`: simulated engines for two tenants, the gateway in front, real requests through the official SDK.

Everything here is a real process on a real socket; only the engines' arithmetic is simulated. Serves until Ctrl-C and
leaves nothing behind.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import openai
import yaml

from benchmarks.engine.launch import Engine, start_engine

PORT, ADMIN_PORT = 8080, 9090
KEYS = {"acme": "pl-demo-acme", "globex": "pl-demo-globex"}
ENGINES = {"acme": ("acme-0", "acme-1"), "globex": ("globex-0",)}
START_SECONDS = 15.0  # the gateway loads a vocabulary and probes its engines: a second or two, longer on a busy machine
# About 3,000 tokens, so that where its KV blocks lie can be seen in the routing.
HANDBOOK = "You answer questions about the Promptlane handbook.\n" + "".join(
    f"Section {n}: a request of a tenant is served by that tenant's own pool of engines and by nobody else's.\n"
    for n in range(1, 140)
)


def main() -> int:
    """Runs the demo; its exit status."""
    signal.signal(signal.SIGTERM, _stop)
    try:
        with contextlib.ExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="promptlane-demo-")))
            port, admin_port = _free(PORT), _free(ADMIN_PORT)
            print("starting 3 simulated engines and the gateway ...", flush=True)
            engines = {name: _engine(stack) for names in ENGINES.values() for name in names}
            gateway = stack.enter_context(_gateway(folder, engines, port, admin_port))
            _show(port)
            _print_what_next(port, admin_port)
            gateway.wait()
            print("the gateway ended by itself", file=sys.stderr)
            return 1
    except KeyboardInterrupt:
        print("\nstopped: the gateway and its engines have ended")
        return 0


def _stop(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _free(wanted: int) -> int:
    """The wanted port, or another where somebody has it."""
    for port in (wanted, 0):
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)) as taken:
            return int(taken.getsockname()[1])
    raise SystemExit("no port is free on 127.0.0.1")


def _engine(stack: contextlib.ExitStack) -> Engine:
    engine = start_engine(model="tiny", prefill_tokens_per_second=8000.0, decode_step_seconds=0.015)
    stack.callback(engine.stop)
    return engine


@contextlib.contextmanager
def _gateway(folder: Path, engines: dict[str, Engine], port: int, admin_port: int) -> Iterator[subprocess.Popen[bytes]]:
    config = folder / "demo.yaml"
    config.write_text(yaml.safe_dump(_config(folder, engines, port, admin_port), sort_keys=False))
    # A session of its own: Ctrl-C reaches this process alone, which then ends the others in order.
    process = subprocess.Popen(
        [sys.executable, "-m", "router.cli", "serve", "--config", str(config)],
        start_new_session=True,
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        env=os.environ | {"PROMPTLANE_SERVER__LOG_LEVEL": "warning"},
    )
    try:
        threading.Thread(target=_pass_on, args=(process,), daemon=True).start()
        _wait_until_served(process, port, admin_port)
        yield process
    finally:
        process.terminate()
        try:
            process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _pass_on(process: subprocess.Popen[bytes]) -> None:
    for line in process.stderr or ():
        sys.stderr.write(f"gateway: {line.decode()}")


def _config(folder: Path, engines: dict[str, Engine], port: int, admin_port: int) -> dict[str, object]:
    return {
        "server": {
            "port": port,
            "admin_port": admin_port,
            "base_domain": "localhost",
            "secret_file": str(folder / "secret"),
            "shutdown_grace": 2,
        },
        "tenants": {
            tenant: {
                "tier": "platinum" if tenant == "acme" else "silver",
                "api_keys": [{"id": "demo", "sha256": hashlib.sha256(key.encode()).hexdigest()}],
                "models": {"qwen2-7b": {"pool": f"{tenant}-qwen", "engine_model": "tiny"}},
            }
            for tenant, key in KEYS.items()
        },
        "pools": {
            f"{tenant}-qwen": {"endpoints": [{"name": name, "url": engines[name].url} for name in names]}
            for tenant, names in ENGINES.items()
        },
    }


def _wait_until_served(process: subprocess.Popen[bytes], port: int, admin_port: int) -> None:
    """Until every endpoint takes requests."""
    import httpx2

    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(httpx2.HTTPError):
            state = httpx2.get(f"http://127.0.0.1:{admin_port}/admin/state", trust_env=False).json()
            endpoints = [endpoint for pool in state["pools"].values() for endpoint in pool["endpoints"]]
            if all(endpoint["healthy"] for endpoint in endpoints):
                return
        time.sleep(0.05)
    raise SystemExit(f"the gateway did not serve on port {port} within {START_SECONDS:g} seconds")


def _show(port: int) -> None:
    """A few requests that show what the gateway does."""
    acme, globex = (_client(tenant, port) for tenant in KEYS)
    _ask(acme, "a short question", "Which engine answers me?")
    _ask(acme, "a long prompt, streamed", "What does section 7 say?", system=HANDBOOK, stream=True)
    _ask(acme, "the same prefix again: its engine is found", "And section 8?", system=HANDBOOK, stream=True)
    _ask(globex, "another tenant, its own engine", "Which engine answers me?")
    _ask(globex, "no hurry: the batch lane", "Summarise the handbook.", extra={"service_tier": "flex"})


def _client(tenant: str, port: int) -> tuple[str, openai.OpenAI]:
    # The SDK is told an address, as not every resolver knows *.localhost; the Host header names the tenant.
    return tenant, openai.OpenAI(
        base_url=f"http://127.0.0.1:{port}/v1",
        api_key=KEYS[tenant],
        default_headers={"Host": f"{tenant}.localhost"},
        max_retries=0,
    )


def _ask(
    who: tuple[str, openai.OpenAI],
    title: str,
    question: str,
    *,
    system: str = "",
    stream: bool = False,
    extra: dict[str, object] | None = None,
) -> None:
    tenant, client = who
    messages: list[Any] = [{"role": "system", "content": system}] if system else []
    messages.append({"role": "user", "content": question})
    started = time.monotonic()
    options: dict[str, Any] = {"stream": True, "stream_options": {"include_usage": True}} if stream else {}
    raw = client.chat.completions.with_raw_response.create(
        model="qwen2-7b", messages=messages, max_tokens=24, extra_body=extra or {}, **options
    )
    print(f"\n{title}")
    usage, first = _print_answer(raw.parse(), stream, started)
    headers = raw.headers
    details = usage.prompt_tokens_details if usage is not None else None
    print(f"  tenant {tenant}, lane {headers['x-promptlane-lane']}, endpoint {headers['x-promptlane-endpoint']}")
    print(
        f"  cached tokens: {headers['x-promptlane-cached-tokens']} predicted,"
        f" {details.cached_tokens if details else 0} reported, of {usage.prompt_tokens if usage else '?'};"
        f" first {'token' if stream else 'byte'} after {(first - started) * 1000:.0f} ms"
    )
    print(f"  why: {headers['x-promptlane-why']}", flush=True)


def _print_answer(parsed: Any, stream: bool, started: float) -> tuple[openai.types.CompletionUsage | None, float]:
    print("  answer:", end="", flush=True)
    if not stream:
        text = parsed.choices[0].message.content or ""
        print(text)
        return parsed.usage, time.monotonic()
    usage, first = None, 0.0
    for chunk in parsed:
        first = first or time.monotonic()
        usage = chunk.usage or usage
        piece = chunk.choices[0].delta.content or "" if chunk.choices else ""
        print(piece, end="", flush=True)
    print()
    return usage, first


def _print_what_next(port: int, admin_port: int) -> None:
    print(
        f"""
serving until Ctrl-C. Try:
  curl -N http://acme.localhost:{port}/v1/chat/completions -H 'Authorization: Bearer {KEYS["acme"]}' \\
       -d '{{"model": "qwen2-7b", "stream": true, "messages": [{{"role": "user", "content": "Hello!"}}]}}'
  curl -i http://acme.localhost:{port}/v1/models -H 'Authorization: Bearer {KEYS["globex"]}'   # 403: not its key
  curl http://127.0.0.1:{admin_port}/admin/state     # tenants, pools, endpoints, live
  curl http://127.0.0.1:{admin_port}/metrics
""",
        flush=True,
    )


if __name__ == "__main__":
    sys.exit(main())
