"""One GPU host by Compose: valid, each tenant on its own GPUs and its own network, no secret in a file."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import sqlalchemy
import yaml

from deploy.compose import make_secrets
from router.config import load
from tests.deploy.tools import DEPLOY, ROOT, run, tool

COMPOSE = DEPLOY / "compose"
CONFIG = load(COMPOSE / "promptlane.yaml", environ={})
TENANTS = sorted(CONFIG.tenants)
SHARED_SERVICES = {"gateway", "secrets", "redis", "postgres", "prometheus", "grafana"}
ENGINE_IMAGES = ("vllm/", "ollama/", "promptlane-engine", "nginxinc/")


@cache
def project(*profiles: str) -> dict[str, Any]:
    """As Compose itself reads it, merged and checked against its schema."""
    chosen = [word for profile in profiles for word in ("--profile", profile)]
    command = (tool("docker-compose"), "-f", COMPOSE / "compose.yaml", *chosen, "config", "--format", "json")
    done = run(*command, env={"PATH": os.environ["PATH"], "HOME": os.environ.get("HOME", "/")})
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def engines(*profiles: str) -> dict[str, dict[str, Any]]:
    return {
        name: one
        for name, one in project(*profiles)["services"].items()
        if one["image"].startswith(ENGINE_IMAGES) and one.get("profiles") != ["fetch"]
    }


def devices(service: dict[str, Any]) -> list[str]:
    reserved = service.get("deploy", {}).get("resources", {}).get("reservations", {}).get("devices", [])
    return [number for one in reserved for number in one["device_ids"]]


def names(service: str, one: dict[str, Any]) -> set[str]:
    """How other containers call it."""
    return {service} | {alias for net in one["networks"].values() for alias in (net or {}).get("aliases", [])}


def test_it_needs_nothing_from_the_environment_and_its_core_is_always_there() -> None:
    assert set(project()["services"]) == SHARED_SERVICES


@pytest.mark.parametrize("profile", ["cpu", "gpu"])
def test_every_endpoint_of_the_configuration_is_a_service_of_its_tenant_s_network(profile: str) -> None:
    known = {name: one for service, one in engines(profile).items() for name in names(service, one)}
    for tenant in TENANTS:
        for model in CONFIG.tenants[tenant].models.values():
            for endpoint in CONFIG.pools[model.pool].endpoints:
                assert list(known[urlsplit(endpoint.url).hostname or ""]["networks"]) == [tenant], endpoint.name


def test_the_two_profiles_share_no_service_but_the_core() -> None:
    assert set(project("cpu")["services"]) & set(project("gpu")["services"]) == SHARED_SERVICES


def test_each_gpu_belongs_to_one_tenant_and_to_one_engine() -> None:
    owners: dict[str, list[str]] = {}
    for name, one in engines("gpu").items():
        for number in devices(one):
            owners.setdefault(number, []).append(name)
    assert len(owners) == 4
    assert {number: by for number, by in owners.items() if len(by) > 1} == {}
    graphic = {name for name, one in engines("gpu").items() if not one["image"].startswith("nginxinc/")}
    assert {by for (by,) in owners.values()} == graphic, "an engine without device_ids sees every GPU"


def test_no_service_asks_for_gpus_by_count_or_sees_them_all() -> None:
    for name, one in project("gpu", "cpu", "fetch")["services"].items():
        text = json.dumps(one)
        assert (one.get("environment") or {}).get("NVIDIA_VISIBLE_DEVICES", "void") == "void", name
        assert not one.get("privileged"), name
        assert "gpus" not in one, name
        assert '"count"' not in text, name


@pytest.mark.parametrize("profile", ["cpu", "gpu"])
def test_engines_are_on_one_internal_network_and_publish_nothing(profile: str) -> None:
    found = engines(profile)
    assert len(found) >= 4
    for name, one in found.items():
        (network,) = one["networks"]
        assert project(profile)["networks"][network].get("internal") is True, name
        assert network in TENANTS, name
        assert not one.get("ports"), name
        assert one.get("network_mode") is None, name


def test_only_gateway_and_prometheus_are_on_tenants_networks() -> None:
    for name, one in project("cpu", "gpu")["services"].items():
        on = set(one.get("networks") or {}) & set(TENANTS)
        assert not on or name in {"gateway", "prometheus"} | set(engines("cpu", "gpu")), name


def test_operators_port_is_where_no_engine_is() -> None:
    gateway = project()["services"]["gateway"]
    host = gateway["environment"]["PROMPTLANE_SERVER__ADMIN_HOST"]
    assert [net for net, more in gateway["networks"].items() if host in ((more or {}).get("aliases") or [])] == [
        "state"
    ]
    assert {port["target"] for port in gateway["ports"]} == {8080}
    assert all("state" not in one["networks"] for one in engines("cpu", "gpu").values())
    (job, _) = yaml.safe_load((COMPOSE / "prometheus" / "prometheus.yaml").read_text())["scrape_configs"]
    assert job["static_configs"] == [{"targets": [f"{host}:9090"]}]


def test_what_is_published_beside_tenants_port_is_on_loopback() -> None:
    for name, one in project("cpu", "gpu", "fetch")["services"].items():
        for port in one.get("ports", []):
            assert name == "gateway" or port.get("host_ip") == "127.0.0.1", name


def test_secrets_come_from_files_and_stand_nowhere() -> None:
    for name, one in project("cpu", "gpu", "fetch")["services"].items():
        for variable, value in (one.get("environment") or {}).items():
            secret = any(word in variable for word in ("PASSWORD", "SECRET", "TOKEN", "KEY"))
            assert not secret or variable.endswith("_FILE"), f"{name}: {variable}"
            assert not secret or str(value).startswith("/secrets/"), f"{name}: {variable}"
    assert urlsplit(CONFIG.database_url).password is None


def test_each_secret_is_mounted_by_its_reader_alone() -> None:
    readers: dict[str, set[str]] = {}
    for name, one in project("cpu", "gpu", "fetch")["services"].items():
        for volume in one.get("volumes", []):
            if str(volume["source"]).endswith("-secrets"):
                readers.setdefault(volume["source"], set()).add(name)
                assert volume.get("read_only") or name == "secrets", name
    assert readers == {f"{name}-secrets": {"secrets", name} for name in ("gateway", "postgres", "grafana")}


def test_warm_standbys_can_sleep_and_nothing_else_has_routes_for_developers() -> None:
    roles = {
        urlsplit(endpoint.url).hostname: endpoint.role.value
        for pool in CONFIG.pools.values()
        for endpoint in pool.endpoints
    }
    for name, one in engines("gpu").items():
        if one["image"].startswith("vllm/"):
            warm = roles[name] == "warm"
            assert ("--enable-sleep-mode" in one["command"]) is warm, name
            assert (one["environment"].get("VLLM_SERVER_DEV_MODE") == "1") is warm, name
            assert {"--enable-prefix-caching", "--enable-prompt-tokens-details"} <= set(one["command"]), name
            (grace,) = (word.partition("=")[2] for word in one["command"] if word.startswith("--shutdown-timeout"))
            assert int(grace) < seconds(one["stop_grace_period"]), name
    gateway = project()["services"]["gateway"]
    assert CONFIG.server.shutdown_grace + CONFIG.server.shutdown_delay < seconds(gateway["stop_grace_period"])


def seconds(text: str) -> int:
    minutes, _, rest = text.removesuffix("s").rpartition("m")
    return int(minutes or 0) * 60 + int(rest or 0)


def test_images_have_tags_and_name_no_registry() -> None:
    for name, one in project("cpu", "gpu", "fetch")["services"].items():
        image, _, tag = one["image"].partition(":")
        assert tag not in ("", "latest"), name
        assert "." not in image.split("/")[0], name


def test_what_is_mounted_from_here_exists_and_the_rules_and_dashboards_are_the_tested_ones() -> None:
    mounted = {
        Path(volume["source"]): volume
        for one in project("cpu", "gpu", "fetch")["services"].values()
        for volume in one.get("volumes", [])
        if volume["type"] == "bind"
    }
    assert all(path.exists() and volume["read_only"] for path, volume in mounted.items())
    rules = mounted[DEPLOY / "observability" / "prometheus"]["target"]
    (glob,) = yaml.safe_load((COMPOSE / "prometheus" / "prometheus.yaml").read_text())["rule_files"]
    assert glob == f"{rules}/*.yaml"
    boards = mounted[DEPLOY / "observability" / "grafana"]["target"]
    (provider,) = yaml.safe_load((COMPOSE / "grafana" / "dashboards.yaml").read_text())["providers"]
    assert provider["options"]["path"] == boards


def test_prometheus_reads_the_engines_that_have_figures() -> None:
    _, vllm = yaml.safe_load((COMPOSE / "prometheus" / "prometheus.yaml").read_text())["scrape_configs"]
    scraped = {(one["labels"]["tenant"], target) for one in vllm["static_configs"] for target in one["targets"]}
    on = {
        (next(iter(one["networks"])), f"{name}:8000")
        for name, one in engines("gpu").items()
        if one["image"].startswith("vllm/")
    }
    assert scraped == on


def test_passwords_are_made_once_and_for_their_readers_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    owned: dict[Path, int] = {}
    monkeypatch.setattr(make_secrets.os, "chown", lambda path, user, group: owned.update({Path(path): user}))
    for name in ("gateway", "postgres", "grafana", "spool"):
        (tmp_path / name).mkdir()
    make_secrets.main(tmp_path, tmp_path / "spool")
    made = {path.relative_to(tmp_path): path.read_text() for path in tmp_path.rglob("*") if path.is_file()}
    assert set(map(str, made)) == {
        "gateway/pgpass",
        "gateway/promptlane.secret",
        "postgres/password",
        "grafana/password",
    }
    assert all(stat.S_IMODE((tmp_path / path).stat().st_mode) == 0o600 for path in made)
    assert (owned[tmp_path / "gateway"], owned[tmp_path / "grafana"], owned[tmp_path / "spool"]) == (10001, 472, 10001)
    password = made[Path("postgres/password")].strip()
    assert made[Path("gateway/pgpass")].strip() == f"postgres:5432:promptlane:promptlane:{password}"
    make_secrets.main(tmp_path, tmp_path / "spool")
    assert {path: (tmp_path / path).read_text() for path in made} == made


def test_the_database_s_url_leads_libpq_to_the_password_file() -> None:
    url = sqlalchemy.make_url(CONFIG.database_url).set(drivername="postgresql+psycopg")
    _, given = url.get_dialect()().create_connect_args(url)
    host = project()["services"]["postgres"]
    mounted = {volume["target"] for volume in project()["services"]["gateway"]["volumes"]}
    assert (given["host"], given["user"], given["dbname"]) == ("postgres", "promptlane", "promptlane")
    assert str(Path(given["passfile"]).parent) in mounted
    assert (host["environment"]["POSTGRES_USER"], host["environment"]["POSTGRES_DB"]) == ("promptlane", "promptlane")


def test_the_gateway_accepts_its_configuration() -> None:
    command = [sys.executable, "-m", "router.cli", "check", "--config", str(COMPOSE / "promptlane.yaml")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=180)
    assert (done.returncode, "good (3 tenants" in done.stdout) == (0, True), done.stderr
