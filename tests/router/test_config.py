"""The configuration as an operator meets it: the contract file, defaults, the environment, warnings and the docs."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from pydantic import ValidationError

from policies.types import Role
from router.config import (
    API_NAMES,
    KNOWN_PROFILES,
    Config,
    ConfigError,
    ServerConfig,
    documented_keys,
    load,
    loads,
    warnings,
)

CONTRACT = Path(__file__).parents[1] / "examples" / "two-tenants.yaml"
SECRET = "s3cr3t-value-that-must-never-be-printed-anywhere"
NOW = datetime(2026, 11, 1, tzinfo=UTC)

ONE_TENANT = f"""
server: {{port: 8000, trusted_proxies: [10.0.0.0/8]}}
tenants:
  acme:
    hosts: [LLM.Acme.example]
    api_keys:
      - {{id: ci, sha256: {"AB" * 32}, expires: 2026-12-01}}
    models:
      Qwen/Qwen2-7B: {{pool: acme-qwen}}
pools:
  acme-qwen:
    endpoints: [{{name: e0, url: "HTTP://Engine:80/base/"}}]
"""


def build(text: str, environ: Mapping[str, str] | None = None) -> Config:
    return loads(text.encode(), environ or {})


def told(text: str, environ: Mapping[str, str] | None = None) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        build(text, environ)
    return [str(problem) for problem in caught.value.problems]


def test_the_contract_file_is_accepted_as_it_is() -> None:
    config = load(CONTRACT, {})
    acme = config.tenants["acme"]
    assert (config.server.port, config.server.admin_port, config.server.base_domain) == (8080, 9090, "llm.example.com")
    assert config.state.ledger_url == "sqlite:///promptlane.db"
    assert (acme.tier, acme.hosts) == ("platinum", ("acme.llm.example.com", "llm.acme.example"))
    assert acme.api_keys[0].sha256.startswith("943b2d66")
    assert (acme.limits.requests_per_minute, acme.limits.tokens_per_minute, acme.limits.concurrency) == (
        600,
        400000,
        64,
    )
    assert (acme.models["qwen2-7b"].pool, acme.models["qwen2-7b"].engine_model) == ("acme-qwen", "tiny")
    assert [endpoint.role for endpoint in config.pools["acme-qwen"].endpoints] == [Role.HOT, Role.HOT, Role.WARM]
    assert config.tenants["globex"].limits.concurrency is None


def test_an_empty_mapping_gives_every_default_and_sections_without_content_do_too() -> None:
    config = build("{}")
    assert config == build("server:\nstate:\nclassify:\nrouting:\ntiers:\ntenants:\npools:\n")
    assert (config.server.host, config.server.port, config.server.admin_port) == ("127.0.0.1", 8080, 9090)
    assert config.routing.profile == "prompt-aware"
    assert {name: (tier.priority, tier.rto_seconds) for name, tier in config.tiers.items()} == {
        "platinum": (0, 5.0),
        "gold": (10, 15.0),
        "silver": (20, 60.0),
    }


def test_values_take_one_spelling() -> None:
    config = build(ONE_TENANT)
    acme = config.tenants["acme"]
    assert acme.hosts == ("llm.acme.example",)
    assert acme.api_keys[0].sha256 == "ab" * 32
    assert acme.api_keys[0].expires == datetime(2026, 12, 1, tzinfo=UTC)
    assert acme.models["Qwen/Qwen2-7B"].engine_model == "Qwen/Qwen2-7B"
    assert config.pools["acme-qwen"].endpoints[0].url == "http://engine/base"
    assert [str(network) for network in config.server.trusted_proxies] == ["10.0.0.0/8"]


def test_an_operators_tier_joins_the_default_ones_and_a_changed_one_keeps_what_is_not_said() -> None:
    config = build("tiers: {bronze: {priority: 30, rto_seconds: 120}, gold: {rto_seconds: 10}}")
    assert list(config.tiers) == ["platinum", "gold", "silver", "bronze"]
    assert (config.tiers["gold"].priority, config.tiers["gold"].rto_seconds) == (10, 10.0)


def test_anchors_and_merge_keys_save_repetition() -> None:
    shared = ONE_TENANT.replace("acme-qwen:\n", "acme-qwen:\n    timeouts: &slow {total: 60, idle: 5}\n", 1) + (
        "  other:\n    timeouts: {<<: *slow, idle: 7}\n    endpoints: [{name: e1, url: http://other}]\n"
    )
    timeouts = build(shared).pools["other"].timeouts
    assert (timeouts.total, timeouts.idle, timeouts.connect) == (60.0, 7.0, 5.0)


def test_a_configuration_cannot_be_changed_after_it_was_checked() -> None:
    config = build("{}")
    with pytest.raises(ValidationError):
        config.server.port = 1  # type: ignore[misc]  # the very thing that must fail


@pytest.mark.parametrize(
    ("name", "value", "read"),
    [
        ("PROMPTLANE_SERVER__PORT", "0", lambda config: config.server.port == 0),
        ("promptlane_server__port", "0", lambda config: config.server.port == 0),
        ("PROMPTLANE_SERVER", '{"port": 0}', lambda config: config.server.port == 0),
        ("PROMPTLANE_SERVER__ROUTING_HEADERS", "false", lambda config: not config.server.routing_headers),
        ("PROMPTLANE_SERVER__BASE_DOMAIN", "X.Example", lambda config: config.server.base_domain == "x.example"),
        ("PROMPTLANE_STATE__LEDGER_URL", "null", lambda config: config.state.ledger_url is None),
        ("PROMPTLANE_TENANTS__ACME__TIER", "gold", lambda config: config.tenants["acme"].tier == "gold"),
        ("PROMPTLANE_TENANTS__ACME__HOSTS", '["a.b"]', lambda config: config.tenants["acme"].hosts == ("a.b",)),
        ("PROMPTLANE_POOLS__ACME_QWEN__RETRIES", "5", lambda config: config.pools["acme-qwen"].retries == 5),
        ("PROMPT_TOKEN_THRESHOLD", "512", lambda config: config.classify.long_prompt_tokens == 512),
        ("ENABLE_KV_AWARE_ROUTING", "false", lambda config: config.routing.profile == "least-outstanding"),
        ("ENABLE_KV_AWARE_ROUTING", "true", lambda config: config.routing.profile == "prompt-aware"),
        ("PROMPTLANE_SERVER__PORT", "", lambda config: config.server.port == 8080),
        ("PROMPTLANE_CONFIG", "/some/file.yaml", lambda config: config.server.port == 8080),
        ("PROMPTLANE_PORT", "tcp://10.0.0.1:80", lambda config: config.server.port == 8080),
        ("PROMPTLANE_SERVICE_HOST", "10.0.0.1", lambda config: config.server.port == 8080),
        ("PROMPTLANE_ADMIN_PORT_9090_TCP_ADDR", "10.0.0.1", lambda config: config.server.admin_port == 9090),
    ],
)
def test_the_environment_wins_over_the_file(name: str, value: str, read) -> None:  # type: ignore[no-untyped-def]  # a lambda
    assert read(load(CONTRACT, {name: value}))


def test_the_longer_variable_wins_over_the_shorter_one() -> None:
    environ = {
        "PROMPT_TOKEN_THRESHOLD": "1",
        "PROMPTLANE_CLASSIFY__LONG_PROMPT_TOKENS": "3",
        "PROMPTLANE_CLASSIFY": '{"long_prompt_tokens": 2, "batch_n": 9}',
        "ENABLE_KV_AWARE_ROUTING": "false",
        "PROMPTLANE_ROUTING__PROFILE": "random",
    }
    config = build("{}", environ)
    assert (config.classify.long_prompt_tokens, config.classify.batch_n, config.routing.profile) == (3, 9, "random")


def test_without_a_mapping_the_process_environment_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PROMPTLANE_SERVER__PORT", "18080")
    assert load(CONTRACT).server.port == 18080
    assert load(CONTRACT, {}).server.port == 8080
    assert ServerConfig().port == Config.model_validate({}).server.port == 8080


def test_secrets_come_from_the_environment_and_show_in_no_repr() -> None:
    text = ONE_TENANT.replace("endpoints:", "engine_api_key_env: ENGINE_KEY\n    endpoints:")
    environ = {"PROMPTLANE_SECRET": SECRET, "ENGINE_KEY": "engine-" + SECRET}
    urls = {"PROMPTLANE_STATE__REDIS_URL": f"redis://:{SECRET}@redis:6379/0"}
    config = build(text, environ | urls)
    assert config.server.secret is not None
    assert config.server.secret.get_secret_value() == SECRET
    engine_key = config.pools["acme-qwen"].engine_api_key
    assert engine_key is not None
    assert engine_key.get_secret_value() == "engine-" + SECRET
    assert config.state.redis_url == urls["PROMPTLANE_STATE__REDIS_URL"]
    for text_of_it in (repr(config), str(config)):
        assert SECRET not in text_of_it
        assert "ab" * 32 not in text_of_it


@pytest.mark.parametrize(
    ("environ", "message"),
    [
        ({"PROMPTLANE_SERVER__PORT": "x"}, "PROMPTLANE_SERVER__PORT: expected a whole number from 0 to 65535; got 'x'"),
        ({"PROMPTLANE_SERVER__PORTT": "1"}, "PROMPTLANE_SERVER__PORTT: unknown key; did you mean 'port'?"),
        ({"PROMPTLANE_SERVR__PORT": "1"}, "PROMPTLANE_SERVR__PORT: unknown variable: no key has this name"),
        ({"PROMPTLANE_PORT": "8080"}, "PROMPTLANE_PORT: unknown variable: no key has this name"),
        (
            {"PROMPTLANE_SERVER": '{"port": "x"}'},
            "PROMPTLANE_SERVER.port: expected a whole number from 0 to 65535; got 'x'",
        ),
        (
            {"PROMPTLANE_SERVER__TRUSTED_PROXIES": "10.0.0.0/8"},
            'PROMPTLANE_SERVER__TRUSTED_PROXIES: expected JSON: a list as ["a", "b"], a mapping as {"key": 1}',
        ),
        (
            {"PROMPTLANE_SERVER__TLS__CERT_FILE": "c.pem"},
            "PROMPTLANE_SERVER__TLS__CERT_FILE: server.tls.key_file: missing; expected a file name",
        ),
        ({"PROMPT_TOKEN_THRESHOLD": "many"}, "PROMPT_TOKEN_THRESHOLD: expected a whole number from 1; got 'many'"),
        ({"ENABLE_KV_AWARE_ROUTING": "maybe"}, "ENABLE_KV_AWARE_ROUTING: expected true or false"),
        (
            {"PROMPTLANE_SECRET": "too-short"},
            "PROMPTLANE_SECRET: expected null or text of at least 32 characters; got text (not shown)",
        ),
        (
            {"PROMPTLANE_SERVER__SECRET": SECRET},
            "PROMPTLANE_SERVER__SECRET: the secret is read from PROMPTLANE_SECRET only",
        ),
    ],
)
def test_a_mistake_of_the_environment_is_told_by_its_variable(environ: dict[str, str], message: str) -> None:
    assert told("{}", environ) == [message]


def test_every_mistake_of_file_and_environment_is_told_at_once_in_the_order_of_the_file() -> None:
    broken = """server:
  prot: 80
  port: 70000
tenants:
  acme:
    tier: plat
    api_keys: [{id: ci, sha256: zz}]
    models:
      qwen: {pool: acme-qwn}
pools:
  acme-qwen:
    endpoints:
      - {name: a, url: "http://h"}
      - {name: b, url: "ftp://h", role: hott}
"""
    assert told(broken, {"PROMPTLANE_SERVER__HEADER_TIMEOUT": "0", "PROMPTLANE_FOO": SECRET}) == [
        "server.prot (line 2): unknown key; did you mean 'port'?",
        "server.port (line 3): expected a whole number from 0 to 65535; got 70000",
        "tenants.acme.tier (line 6): expected one of platinum, gold, silver; got 'plat'",
        "tenants.acme.api_keys[0].sha256 (line 7): expected 64 hexadecimal digits (in quotes if all are decimal); "
        "got text (not shown)",
        "tenants.acme.models.qwen.pool (line 9): expected the name of a pool; got 'acme-qwn'; "
        "did you mean 'acme-qwen'?",
        "pools.acme-qwen.endpoints[1].url (line 14): expected a URL http(s)://host[:port][/path] without query and "
        "user info; got 'ftp://h'",
        "pools.acme-qwen.endpoints[1].role (line 14): expected one of hot, warm, cold; got 'hott'",
        "PROMPTLANE_FOO: unknown variable: no key has this name",
        "PROMPTLANE_SERVER__HEADER_TIMEOUT: expected a number above 0 to 86400; got '0'",
    ]


def test_the_error_prints_one_line_per_problem() -> None:
    with pytest.raises(ConfigError) as caught:
        build("server: {port: x, host: 3}")
    assert str(caught.value).splitlines() == [str(problem) for problem in caught.value.problems]
    assert len(caught.value.problems) == 2


def test_what_is_allowed_but_hardly_meant_is_a_warning() -> None:
    config = build(
        ONE_TENANT
        + "  spare: {endpoints: [{name: s0, url: http://spare/v1, role: cold}]}\nstate: {redis_url: redis://h}\n"
    )
    later = NOW + timedelta(days=60)
    assert [str(problem) for problem in warnings(config, later)] == [
        "server.secret: replicas need the same one: set PROMPTLANE_SECRET, or share server.secret_file",
        "tenants.acme.api_keys[0].expires: the key expired at 2026-12-01T00:00:00+00:00",
        "pools.spare: no tenant uses this pool",
        "pools.spare.endpoints: none is hot: standbys will serve everything",
        "pools.spare.endpoints[0].url: ends in /v1, which Promptlane adds itself",
    ]
    assert not [problem for problem in warnings(config, NOW) if "expired" in problem.message]


def test_serving_nobody_or_nothing_is_a_warning() -> None:
    assert [problem.path for problem in warnings(build("{}"), NOW)] == ["tenants"]
    idle = build("tenants: {acme: {anonymous: true, hosts: [a.b]}}")
    assert [problem.path for problem in warnings(idle, NOW)] == ["tenants.acme.models"]


def test_every_key_is_documented_once_with_type_default_and_description() -> None:
    keys = documented_keys()
    by_path = {key.path: key for key in keys}
    assert len(by_path) == len(keys)
    assert all(key.type and key.default and key.description.endswith(".") for key in keys)
    assert by_path["tenants.<id>.limits.concurrency"].default == "null"
    assert by_path["pools.<name>.endpoints[].url"].default == "required"
    assert by_path["tenants.<id>.models.<name>.engine_model"].default == "<name>"
    assert by_path["tenants.<id>.api_keys[].sha256"].type.startswith("64 hexadecimal")
    assert by_path["tenants.<id>.api_keys[].sha256"].default == "required"
    assert by_path["tiers"].default == "platinum, gold, silver"
    assert (by_path["server.shutdown_delay"].default, by_path["tenants.<id>.weight"].default) == ("0", "1")
    assert by_path["server.cors"].type == "null or a mapping"
    assert by_path["server.cors.allow_origins"].default == "required"
    assert all(name in by_path["tenants.<id>.api_keys[].apis"].type for name in API_NAMES)
    assert by_path["routing.profile"].type == f"one of {', '.join(KNOWN_PROFILES)}, or of routing.profiles"


def test_every_key_of_the_contract_file_is_documented() -> None:
    documented = {key.path for key in documented_keys()}
    for section, keys in (("server", 5), ("state", 2), ("classify", 1), ("routing", 1)):
        shown = [
            line.split(":")[0].strip()
            for line in CONTRACT.read_text().split(f"\n{section}:\n")[1].splitlines()
            if line.startswith("  ")
        ]
        assert {f"{section}.{key}" for key in shown[:keys]} <= documented


@pytest.mark.parametrize(
    ("text", "kept", "url"),
    [
        ("{}", False, "sqlite:///promptlane.db"),
        ("keys: {at_run_time: true}", True, "sqlite:///promptlane.db"),
        ("state: {ledger_url: 'sqlite:///a.db'}", True, "sqlite:///a.db"),
        ("state: {ledger_url: 'sqlite:///a.db'}\nkeys: {at_run_time: false}", False, "sqlite:///a.db"),
    ],
)
def test_keys_are_made_at_run_time_where_there_is_a_database_unless_it_is_said_otherwise(
    text: str, kept: bool, url: str
) -> None:
    config = build(text)
    assert (config.keeps_keys, config.database_url) == (kept, url)


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("{}", False),
        ("ledger: {enabled: true}", True),
        ("state: {ledger_url: 'sqlite:///a.db'}", True),
        ("state: {ledger_url: 'sqlite:///a.db'}\nledger: {enabled: false}", False),
    ],
)
def test_records_are_kept_where_there_is_a_database_unless_it_is_said_otherwise(text: str, kept: bool) -> None:
    assert build(text).keeps_records is kept


@pytest.mark.parametrize(
    ("value", "place"),
    [
        ("{max_spool_bytes: 1000}", "ledger.max_spool_bytes"),
        ("{on_full: maybe}", "ledger.on_full"),
        ("{retention_days: 0}", "ledger.retention_days"),
        ("{max_rows: 0}", "ledger.max_rows"),
        ("{spool_dir: ''}", "ledger.spool_dir"),
        ("{spool: x}", "ledger.spool"),
    ],
)
def test_a_mistake_in_the_ledgers_section_is_told_by_its_key(value: str, place: str) -> None:
    with pytest.raises(ConfigError, match=f"{place} "):
        build(f"ledger: {value}")


def test_a_ledgers_section_without_a_database_is_warned_of() -> None:
    def warned(text: str) -> list[str]:
        return [problem.path for problem in warnings(build(text), NOW) if problem.path == "ledger"]

    assert warned("ledger: {on_full: refuse}") == ["ledger"]
    assert warned("ledger: {on_full: refuse, enabled: true}") == []
    assert warned("ledger: {on_full: refuse}\nstate: {ledger_url: 'sqlite:///a.db'}") == []


@pytest.mark.parametrize(
    ("text", "share"),
    [
        ("governance: {}", 0.1),
        ("governance: {output: off}", 0.0),
        ("governance: {output: 'off'}", 0.0),
        ("governance: {sample: 0.5}", 0.5),
        ("governance: {output: all, sample: 0.5}", 1.0),
    ],
)
def test_a_share_of_the_answers_is_looked_at_as_governance_says(text: str, share: float) -> None:
    assert build(text).governance.share == share


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("governance: {output: some}", "governance.output"),
        ("governance: {sample: 0}", "governance.sample"),
        ("governance: {sample: 1.5}", "governance.sample"),
        ("governance: {share: 1}", "governance.share"),
        (f"tenants: {{acme: {{watch_words: [{', '.join(f'w{n}' for n in range(51))}]}}}}", "tenants.acme.watch_words"),
        ("tenants: {acme: {watch_words: ['']}}", r"tenants.acme.watch_words\[0\]"),
        ("tenants: {acme: {models: {m: {pool: p, weights_digest: abc}}}}", "tenants.acme.models.m.weights_digest"),
        ("pools: {p: {endpoints: [{name: e, url: 'http://h:1', weights_digest: 'md5:0'}]}}", r"weights_digest"),
    ],
)
def test_a_mistake_in_what_governance_needs_is_told_by_its_key(text: str, place: str) -> None:
    with pytest.raises(ConfigError, match=f"{place} "):
        build(text)


def test_a_digest_of_weights_is_taken_in_either_case() -> None:
    digest = f"sha256:{'Ab' * 32}"
    found = build(f"pools: {{p: {{endpoints: [{{name: e, url: 'http://h:1', weights_digest: '{digest}'}}]}}}}")
    assert found.pools["p"].endpoints[0].weights_digest == digest.lower()
