"""`state.redis_url` and `replicas`: what they make, what they refuse, and where a replica says that it is found."""

from __future__ import annotations

from pathlib import Path

import pytest
import trustme

from router.assembly import build
from router.config import Config, ConfigError, loads
from router.config.warning import warnings
from router.live_state import describe
from router.metrics import Metrics
from router.process import Process, Worker
from router.replicas_builder import advertised, build_replicas
from tests.router.stack import COUNTER, SECRET
from tests.router.test_config import NOW

POOLS = "pools: {p: {endpoints: [{name: e0, url: http://e0}]}}\n"
REDIS = "state: {redis_url: 'redis://127.0.0.1:1/0'}\n"


def read(text: str) -> Config:
    return loads(text.encode(), {})


def test_without_a_redis_there_are_no_replicas_and_pools_know_nothing_of_them() -> None:
    config = read(POOLS)
    assert build_replicas(config, SECRET, Metrics()) is None
    runtime = build(config, Process(SECRET, COUNTER, Metrics()))
    assert runtime.pools["p"].remote is None
    assert (describe(runtime)["replicas"], describe(runtime)["pools"]["p"]["replica"]) == (None, None)


def test_with_one_every_pool_has_its_part_also_after_a_reload() -> None:
    config, metrics = read(POOLS + REDIS), Metrics()
    process = Process(SECRET, COUNTER, metrics, replicas=build_replicas(config, SECRET, metrics))
    runtime = build(config, process)
    remote = runtime.pools["p"].remote
    assert describe(runtime)["pools"]["p"]["replica"] == {
        "part": "alone",
        "owner": None,
        "home": None,
        "term": 0,
        "under_way": 0,
        "seats_of_followers": 0,
    }
    assert runtime.pools["p"].profile.name == "prompt-aware-at-once"
    again = build(read(POOLS.replace("e0}", "e1}") + REDIS), process, runtime)
    assert again.pools["p"] is not runtime.pools["p"]
    assert again.pools["p"].remote is remote is not None
    assert again.pools["p"].profile.name == "prompt-aware-at-once"


def test_two_processes_of_one_host_have_two_names() -> None:
    config = read(POOLS + REDIS)
    made = [build_replicas(config, SECRET, Metrics()) for _ in range(2)]
    assert len({one.settings.me for one in made if one is not None}) == 2


@pytest.mark.parametrize(
    ("configured", "bound", "told"),
    [
        (None, "tcp://10.1.2.3:8090", "tcp://10.1.2.3:8090"),
        (None, "unix:/run/link.sock", "unix:/run/link.sock"),
        (None, "tcp://0.0.0.0:8090", "tcp://127.0.0.1:8090"),  # from where a Redis on this host is reached
        ("tcp://gateway-0.example.com:9", "tcp://0.0.0.0:8090", "tcp://gateway-0.example.com:9"),
    ],
)
@pytest.mark.parametrize("url", ["redis://u:p@127.0.0.1:6379/0", "redis+sentinel://127.0.0.1,127.0.0.2/s"])
def test_others_are_told_an_address_that_they_can_reach(
    configured: str | None, bound: str, told: str, url: str
) -> None:
    assert advertised(configured, url, bound) == told


def test_certificates_are_read_and_demanded_on_both_sides(tmp_path: Path) -> None:
    authority = trustme.CA()
    mine = authority.issue_cert("gateway")
    mine.private_key_and_cert_chain_pem.write_to_path(str(tmp_path / "both.pem"))
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    both = tmp_path / "both.pem"
    tls = f"replicas: {{tls: {{cert_file: {both}, key_file: {both}, ca_file: {tmp_path / 'ca.pem'}}}}}\n"
    made = build_replicas(read(POOLS + REDIS + tls), SECRET, Metrics())
    assert made is not None
    contexts = made.settings.server_tls, made.settings.client_tls
    assert [one.verify_mode.name for one in contexts if one is not None] == ["CERT_REQUIRED"] * 2


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("replicas: {listen: 'http://h:1'}", "replicas.listen (line 2): expected tcp://HOST:PORT or unix:/PATH;"),
        ("replicas: {lease_seconds: 0.2}", "replicas.lease_seconds (line 2): expected a number from 1 to 60;"),
        ("replicas: {prefix: 'a b'}", "replicas.prefix (line 2): expected text of letters"),
        ("state: {redis_url: 'http://u:SECRET@h'}", "state.redis_url (line 2): expected"),
    ],
)
def test_mistakes_are_told_with_their_place(text: str, problem: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read(POOLS + text)
    assert str(caught.value).startswith(problem)
    assert "SECRET" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("state: {redis_url: 'redis+sentinel://h'}\n", "state.redis_url: "),
        (
            REDIS + "replicas: {tls: {cert_file: /nowhere, key_file: /nowhere, ca_file: /nowhere}}\n",
            "replicas.tls: cannot be used: No such file or directory",
        ),
    ],
)
def test_what_only_a_start_finds_out_is_told_as_well(text: str, problem: str) -> None:
    with pytest.raises(ConfigError) as caught:
        build_replicas(read(POOLS + text), SECRET, Metrics())
    assert str(caught.value).startswith(problem)


def test_what_is_hardly_meant_is_a_warning() -> None:
    said = [str(problem) for problem in warnings(read(POOLS + "replicas: {prefix: 'x:'}\n"), NOW)]
    assert "replicas: has no effect without state.redis_url" in said
    said = [str(problem) for problem in warnings(read(POOLS + REDIS), NOW)]
    assert [one for one in said if one.startswith("server.secret: replicas need the same one")]
    named = warnings(read(POOLS + REDIS + "server: {secret_file: /secrets/promptlane}\n"), NOW)
    assert not [one for one in named if one.path == "server.secret"]
    assert not [one for one in said if one.startswith("state.redis_url")]


# -- workers of one machine


def test_workers_know_each_other_without_redis_by_a_folder_of_their_own(tmp_path: Path) -> None:
    made = [build_replicas(read(POOLS), SECRET, Metrics(), Worker(index, 2, tmp_path)) for index in range(2)]
    settings = [one.settings for one in made if one is not None]
    assert [one.listen for one in settings] == [f"unix:{tmp_path / one.me}" for one in settings]
    assert len({one.me for one in settings}) == 2
    assert (tmp_path / "pools").stat().st_mode & 0o777 == 0o700


def test_a_folder_that_cannot_be_used_is_told(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    with pytest.raises(ConfigError, match=r"server\.workers: the workers' folder cannot be used"):
        build_replicas(read(POOLS), SECRET, Metrics(), Worker(0, 2, file))


@pytest.mark.parametrize(
    ("listen", "index", "where"),
    [
        ("tcp://10.0.0.1:8090", 0, "tcp://10.0.0.1:8090"),
        ("tcp://10.0.0.1:8090", 3, "tcp://10.0.0.1:8093"),
        ("tcp://[::1]:8090", 1, "tcp://[::1]:8091"),
        ("tcp://10.0.0.1:0", 3, "tcp://10.0.0.1:0"),
        ("unix:/run/link", 0, "unix:/run/link"),
        ("unix:/run/link", 2, "unix:/run/link.2"),
    ],
)
def test_through_redis_each_worker_has_an_address_of_its_own(
    tmp_path: Path, listen: str, index: int, where: str
) -> None:
    config = read(POOLS + REDIS + f"replicas: {{listen: '{listen}', advertise: '{listen}'}}")
    made = build_replicas(config, SECRET, Metrics(), Worker(index, 4, tmp_path))
    assert made is not None
    assert (made.settings.listen, made.settings.advertise("tcp://10.9.9.9:1")) == (where, where)


def test_ports_for_all_workers_must_be_there() -> None:
    text = POOLS + REDIS + "server: {workers: 4}\n"
    assert read(text + "replicas: {listen: 'tcp://0.0.0.0:65532'}").server.workers == 4
    with pytest.raises(ConfigError, match=r"replicas\.listen .*expected a port of at most 65532"):
        read(text + "replicas: {listen: 'tcp://0.0.0.0:65533'}")
    assert read(POOLS + "server: {workers: 4}\nreplicas: {listen: 'tcp://0.0.0.0:65535'}").server.workers == 4
