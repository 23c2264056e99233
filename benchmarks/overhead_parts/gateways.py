"""The gateways under measurement: how each is installed, configured, started and known to be ready.

All get the same two backends and one core, write no access log, and keep their other defaults: what they do per
request (prefix trees, limits, metrics, records) is what they are.
"""

import hashlib
import http.client
import json
import time
import urllib.request
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from benchmarks.overhead_parts import installs
from benchmarks.overhead_parts.answers import CHAT_BODY, MODEL, says
from benchmarks.overhead_parts.interpreters import Interpreter, interpreter
from benchmarks.overhead_parts.processes import OWN_MODULES, ROOT, Child, Failed, NotStarted, free_port
from benchmarks.overhead_parts.traffic import REQUESTS, bodies
from deploy.compiled.build import running_from

_READY_SECONDS = 30.0
_POLL_SECONDS = 0.05
_HTTP_SECONDS = 5.0


class Gateway(ABC):
    """One gateway. `install` once, then any number of `start` and `stop`."""

    name: ClassVar[str]
    exact: ClassVar[bool] = True
    """Whether its answers are the engine's bytes."""
    heavy: ClassVar[bool] = True
    """Whether it can be asked for what takes it more than some seconds: `measures.Measure.heavy`."""
    all_cores: ClassVar[bool] = False
    """Whether it is measured with all cores, beside the engines and the load."""
    afterwards: ClassVar[float] = 0.0
    """Seconds for which it still works on requests that it has answered."""
    ready_seconds: ClassVar[float] = _READY_SECONDS

    def __init__(self) -> None:
        self.port = 0
        self._child: Child | None = None

    @abstractmethod
    def install(self) -> None:
        """Makes the program available. Raises Failed."""

    @abstractmethod
    def command(self, backends: Sequence[str], folder: Path) -> list[str | Path]:
        """The program and its arguments; `self.port` is where it listens. Configuration files go into `folder`."""

    @property
    def headers(self) -> dict[str, str]:
        """What a request must carry besides its body."""
        return {}

    @property
    def environment(self) -> dict[str, str]:
        return {}

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def pids(self) -> list[int]:
        """The roots of its process tree."""
        return [self._child.pid] if self._child else []

    def start(self, backends: Sequence[str], folder: Path, cpus: set[int]) -> None:
        """Returns when it answers. Raises NotStarted."""
        self.port = free_port()
        command = self.command(backends, folder)
        self._child = Child(command, cpus, folder / f"{self.name}.log", env=self.environment)
        began = time.monotonic()
        while not self.ready():
            if not self._child.running:
                raise NotStarted(f"ended at the start: {self._child.last_words()}")
            if time.monotonic() > began + self.ready_seconds:
                raise NotStarted(f"not ready within {self.ready_seconds:.0f} s: {self._child.last_words()}")
            time.sleep(_POLL_SECONDS)

    def ready(self) -> bool:
        """Whether it answers a chat."""
        return self.chat() == CHAT_BODY

    def chat(self) -> bytes | None:
        """Its answer to a short chat; None for none that is good."""
        headers = {"content-type": "application/json", **self.headers}
        return fetch(f"{self.url}/v1/chat/completions", bodies(REQUESTS)[0], headers)

    def stop(self) -> None:
        if self._child is not None:
            self._child.stop()
            self._child = None


def fetch(url: str, body: bytes | None = None, headers: Mapping[str, str] | None = None) -> bytes | None:
    """The body of a 2xx answer to a GET, or to a POST of `body`; None for any other answer."""
    request = urllib.request.Request(url, body, dict(headers or {}))  # noqa: S310 (only URLs made here come in)
    try:
        with urllib.request.urlopen(request, timeout=_HTTP_SECONDS) as answer:  # noqa: S310 (the same)
            return bytes(answer.read())
    except (OSError, http.client.HTTPException):
        return None


_NGINX_CONFIG = """\
daemon off; master_process off; worker_processes 1; error_log stderr warn; pid nginx.pid;
events { worker_connections 8192; multi_accept on; }
http {
  access_log off; keepalive_requests 1000000000; client_max_body_size 0; client_body_buffer_size 1m;
  client_body_temp_path body; proxy_temp_path proxy; fastcgi_temp_path fastcgi; uwsgi_temp_path uwsgi;
  scgi_temp_path scgi;
  upstream engines { %(servers)s keepalive 4096; keepalive_requests 1000000000; }
  server {
    listen 127.0.0.1:%(port)d backlog=4096;
    location / {
      proxy_pass http://engines; proxy_http_version 1.1; proxy_set_header Connection ""; proxy_buffering off;
    }
  }
}
"""


class Nginx(Gateway):
    """The floor: bytes are passed on and nothing is decided. One process, so that nothing of it can be left over."""

    name = "nginx"

    def install(self) -> None:
        self._program = installs.nginx()

    def command(self, backends: Sequence[str], folder: Path) -> list[str | Path]:
        servers = " ".join(f"server {url.removeprefix('http://')};" for url in backends)
        config = folder / "nginx.conf"
        config.write_text(_NGINX_CONFIG % {"servers": servers, "port": self.port})
        return [self._program, "-p", folder, "-c", config]


class PythonFloor(Gateway):
    """No gateway: the least that one in Python does (`floor.py`), beside which to see what is ours to save."""

    name = "python-floor"

    def install(self) -> None:
        """Nothing is missing."""

    def command(self, backends: Sequence[str], folder: Path) -> list[str | Path]:
        return [interpreter().program, "-m", "benchmarks.overhead_parts.floor", "--port", str(self.port), *backends]

    @property
    def environment(self) -> dict[str, str]:
        return interpreter().environment(OWN_MODULES)


class RustRouter(Gateway):
    """sglang-router and its fork vllm-router: the same arguments, each with its cache-aware policy."""

    package: ClassVar[str]
    version: ClassVar[str]
    quiet: ClassVar[str]

    def install(self) -> None:
        self._python = installs.venv_python(self.package, self.version)

    def command(self, backends: Sequence[str], folder: Path) -> list[str | Path]:
        module = f"{self.package.replace('-', '_')}.launch_router"
        listen = ["--host", "127.0.0.1", "--port", str(self.port)]
        metrics = ["--prometheus-host", "127.0.0.1", "--prometheus-port", str(free_port())]
        workers = ["--worker-urls", *backends, "--worker-startup-check-interval", "1"]
        policy = ["--policy", "cache_aware", "--log-level", self.quiet]
        return [self._python, "-m", module, *listen, *metrics, *workers, *policy]


class SglangRouter(RustRouter):
    name = package = "sglang-router"
    version = "0.3.2"
    quiet = "warn"


class VllmRouter(RustRouter):
    name = package = "vllm-router"
    version = "0.1.17"
    quiet = "warning"


_KEY = "pl-bench-key"
_SEATS = 2048  # per endpoint: nobody waits for one
_NO_LIMIT = 1_000_000_000  # high enough never to bind: the limits are checked and charged all the same


class PromptlaneInterpreted(Gateway):
    """This project with its features on, but for resume: keys, limits, lanes, affinity, routing headers, metrics."""

    name = "promptlane-interpreted"
    afterwards = 6.5  # records are moved to the database every 5 s
    resume = False

    def __init__(self) -> None:
        super().__init__()
        self._admin_port = 0

    def install(self) -> None:
        if not (ROOT / "router" / "cli.py").is_file():
            raise Failed("router/cli.py is not there")

    def command(self, backends: Sequence[str], folder: Path) -> list[str | Path]:
        self._admin_port = free_port()
        config = folder / "promptlane.json"  # YAML holds JSON
        config.write_text(json.dumps(self._config(backends, folder), indent=2))
        return [self.python.program, "-m", "router.cli", "serve", "--config", config]

    def _config(self, backends: Sequence[str], folder: Path) -> dict[str, Any]:
        server = {"host": "127.0.0.1", "port": self.port, "admin_port": self._admin_port, "routing_headers": True}
        limits = dict.fromkeys(("requests_per_minute", "tokens_per_minute", "concurrency"), _NO_LIMIT)
        tenant = {
            "tier": "platinum",
            "api_keys": [{"id": "bench", "sha256": hashlib.sha256(_KEY.encode()).hexdigest()}],
            "limits": limits,
            "models": {MODEL: {"pool": "bench", "engine_model": MODEL}},
        }
        endpoints = [
            {"name": f"bench-{i}", "url": url, "role": "hot", "hourly_cost": 2.5, "max_in_flight": _SEATS}
            for i, url in enumerate(backends)
        ]
        return {
            "server": server | {"base_domain": "llm.example.com"},
            "state": {"redis_url": None, "ledger_url": f"sqlite:///{folder / 'promptlane.db'}"},
            "tiers": {"platinum": {"resume": self.resume}},
            "tenants": {"bench": tenant},
            "pools": {"bench": {"endpoints": endpoints}},
        }

    @property
    def headers(self) -> dict[str, str]:
        return {"authorization": f"Bearer {_KEY}"}

    @property
    def python(self) -> Interpreter:
        """What runs it."""
        return interpreter()

    @property
    def environment(self) -> dict[str, str]:
        return self.python.environment(OWN_MODULES)

    def ready(self) -> bool:
        """Ready, both endpoints healthy, and a chat answered."""
        admin = f"http://127.0.0.1:{self._admin_port}"
        if fetch(f"{admin}/readyz") is None or (state := fetch(f"{admin}/admin/state")) is None:
            return False
        endpoints = json.loads(state)["pools"]["bench"]["endpoints"]
        return all(endpoint["healthy"] for endpoint in endpoints) and super().ready()


class Promptlane(PromptlaneInterpreted):
    """The same with the hot path compiled, as in the container image."""

    name = "promptlane"

    def install(self) -> None:
        super().install()
        self._modules = installs.compiled()

    @property
    def environment(self) -> dict[str, str]:
        return self.python.environment(running_from(self._modules))


class OneWorker(Promptlane):
    """One process on all cores, for comparison with two."""

    name = "promptlane+1worker"
    all_cores = True
    workers = 1

    def _config(self, backends: Sequence[str], folder: Path) -> dict[str, Any]:
        config = super()._config(backends, folder)
        return config | {"server": config["server"] | {"workers": self.workers}}


class TwoWorkers(OneWorker):
    """Two processes that share queues and limits, and the supervisor that keeps them."""

    name = "promptlane+2workers"
    workers = 2


_MASTER_KEY = "sk-" + hashlib.sha256(b"bench").hexdigest()  # it does not start without a long one


class Litellm(Gateway):
    """LiteLLM's proxy with a key: Python, one worker. It writes answers anew, so only their text is checked."""

    name = package = "litellm"
    version = "1.108.7"
    exact = False
    heavy = False
    ready_seconds = 120.0

    def install(self) -> None:
        self._program = installs.venv_python(self.package, self.version, extra="proxy").with_name("litellm")

    def command(self, backends: Sequence[str], folder: Path) -> list[str | Path]:
        engines = [{"model": f"hosted_vllm/{MODEL}", "api_base": f"{url}/v1", "api_key": "none"} for url in backends]
        models = [{"model_name": MODEL, "litellm_params": engine} for engine in engines]
        config = folder / "litellm.json"  # YAML holds JSON
        settings = {"litellm_settings": {"telemetry": False}, "general_settings": {"master_key": _MASTER_KEY}}
        config.write_text(json.dumps({"model_list": models, **settings}))
        return [self._program, "--config", config, "--host", "127.0.0.1", "--port", str(self.port)]

    @property
    def headers(self) -> dict[str, str]:
        return {"authorization": f"Bearer {_MASTER_KEY}"}

    @property
    def environment(self) -> dict[str, str]:
        # Its table of prices comes with it; nothing is to be fetched while it is measured.
        return {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_LOG": "ERROR"}

    def ready(self) -> bool:
        return says(self.chat() or b"")


class PromptlaneResume(Promptlane):
    """The same with streams that can go on elsewhere: token ids are asked for, kept, and taken out of every chunk."""

    name = "promptlane+resume"
    resume = True


USUAL = (Promptlane, PromptlaneInterpreted, PromptlaneResume, Nginx, PythonFloor, SglangRouter, VllmRouter)
"""Those of a run that is not told which, nor to be full."""
GATEWAYS: dict[str, type[Gateway]] = {kind.name: kind for kind in (*USUAL, Litellm, OneWorker, TwoWorkers)}
