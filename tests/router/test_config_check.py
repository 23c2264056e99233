"""Every kind of mistake, with its path, its line and what is said; and that no secret is ever part of it."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from router.config import ConfigError, loads
from router.config.types import engine_url, host_name

KEY = "11" * 32
OTHER_KEY = "22" * 32
SECRET = "pl-topsecret"

BASE = f"""server: {{base_domain: llm.example.com}}
tenants:
  acme:
    hosts: [llm.acme.example]
    api_keys: [{{id: ci, sha256: "{KEY}"}}]
    models: {{qwen: {{pool: p-acme}}}}
  globex:
    api_keys: [{{id: ci, sha256: "{OTHER_KEY}"}}]
    models: {{qwen: {{pool: p-globex}}}}
pools:
  p-acme: {{endpoints: [{{name: a0, url: "http://a:1"}}]}}
  p-globex: {{endpoints: [{{name: g0, url: "http://g:1"}}]}}
"""


def told(text: str) -> list[str]:
    """The problems of a text, [] where it is accepted."""
    try:
        loads(text.encode(), {})
    except ConfigError as error:
        return [str(problem) for problem in error.problems]
    return []


def changed(old: str, new: str) -> list[str]:
    assert BASE.count(old) == 1
    return told(BASE.replace(old, new))


def test_the_base_of_these_tests_has_no_mistake() -> None:
    assert told(BASE) == []


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            "acme:\n    hosts",
            "acme:\n    tier: plat\n    hosts",
            "tenants.acme.tier (line 4): expected one of platinum, gold, silver; got 'plat'",
        ),
        (
            "pool: p-globex",
            "pool: p-glob",
            "tenants.globex.models.qwen.pool (line 9): expected the name of a pool; got 'p-glob'; "
            "did you mean 'p-globex'?",
        ),
        (
            "pool: p-globex",
            "pool: p-acme",
            "pools.p-acme (line 11): expected one tenant, or shared: true; tenants acme, globex name this pool",
        ),
        (
            "globex:\n    api_keys",
            "globex:\n    hosts: [LLM.acme.example]\n    api_keys",
            "tenants.globex.hosts[0] (line 8): expected a host of this tenant alone; 'LLM.acme.example' is acme's",
        ),
        (
            "[llm.acme.example]",
            "[llm.acme.example, Globex.LLM.example.com]",
            "tenants.acme.hosts[1] (line 4): expected a host of this tenant alone; 'Globex.LLM.example.com' is "
            "globex's",
        ),
        (
            f'"{OTHER_KEY}"',
            f'"{KEY}"',
            "tenants.globex.api_keys[0].sha256 (line 8): expected a key of its own; tenants.acme.api_keys[0] is the "
            "same key",
        ),
        (
            f'[{{id: ci, sha256: "{KEY}"}}]',
            f'[{{id: ci, sha256: "{KEY}"}}, {{id: ci, sha256: "{"33" * 32}"}}]',
            "tenants.acme.api_keys[1].id (line 5): expected an id of its own; tenants.acme.api_keys[0] has the same",
        ),
        (
            f'"{KEY}"}}]',
            f'"{KEY}", models: [qwen, qwem]}}]',
            "tenants.acme.api_keys[0].models[1] (line 5): expected a model of this tenant; got 'qwem'; "
            "did you mean 'qwen'?",
        ),
        (
            f'"{KEY}"}}]',
            f'"{KEY}", apis: [chat, chatt]}}]',
            "tenants.acme.api_keys[0].apis[1] (line 5): expected one of chat, completions, embeddings, responses, "
            "messages, rerank, score, tokenize, models, usage; got 'chatt'",
        ),
        (
            f'"{KEY}"}}]',
            f'"{KEY}", expires: 2027-01-01 10:00:00}}]',
            "tenants.acme.api_keys[0].expires (line 5): expected a date, a time with its zone (2027-01-31T12:00:00Z) "
            "or null; got 2027-01-01 10:00:00",
        ),
        (
            "name: g0",
            "name: a0",
            "pools.p-globex.endpoints[0].name (line 12): expected a name of its own; pools.p-acme.endpoints[0] has the "
            "same",
        ),
        (
            "http://g:1",
            "HTTP://A:1/",
            "pools.p-globex.endpoints[0].url (line 12): expected an engine of its own; pools.p-acme.endpoints[0] has "
            "the same url: one engine serves one pool, unless as warm standby",
        ),
        (
            f'    api_keys: [{{id: ci, sha256: "{OTHER_KEY}"}}]\n',
            "    api_keys: []\n",
            "tenants.globex (line 7): expected api_keys (promptlane keys create makes one) or anonymous: true; nobody "
            "could use it",
        ),
        (
            "name: g0,",
            "",
            "pools.p-globex.endpoints[0].name (line 12): missing; expected a name of letters, digits, dots, hyphens "
            "and underscores, at most 128 characters",
        ),
        (
            '[{name: g0, url: "http://g:1"}]',
            "[]",
            "pools.p-globex.endpoints (line 12): missing; expected at least one, or discovery",
        ),
        (
            "{base_domain: llm.example.com}",
            "{secret: 0123456789abcdef0123456789abcdef}",
            "server.secret (line 1): put it in PROMPTLANE_SECRET or server.secret_file",
        ),
        (
            "{base_domain: llm.example.com}",
            "{port: 9090}",
            "server.port (line 1): expected another port than server.admin_port; got '9090' for both",
        ),
        (
            "{base_domain: llm.example.com}",
            "{admin_port: 8080}",
            "server.admin_port (line 1): expected another port than server.port; got '8080' for both",
        ),
        (
            "{base_domain: llm.example.com}",
            '{cors: {allow_origins: ["*"], allow_credentials: true}}',
            "server.cors.allow_credentials (line 1): expected false, or origins by name: browsers refuse credentials "
            "for '*'",
        ),
        (
            "{base_domain: llm.example.com}",
            "{tls: {cert_file: a.pem}}",
            "server.tls.key_file (line 1): missing; expected a file name",
        ),
        (
            "{base_domain: llm.example.com}",
            "{header_timeout: .inf}",
            "server.header_timeout (line 1): expected a number above 0 to 86400; got inf",
        ),
        (
            "{base_domain: llm.example.com}",
            "{port: yes}",
            "server.port (line 1): expected a whole number from 0 to 65535; got True",
        ),
        (
            "{base_domain: llm.example.com}",
            "{trusted_proxies: [10.0.0.1/8]}",
            "server.trusted_proxies[0] (line 1): expected an IP network such as 10.0.0.0/8; got '10.0.0.1/8'",
        ),
        (
            "{base_domain: llm.example.com}",
            "{cors: {allow_origins: [app.example.com]}}",
            'server.cors.allow_origins[0] (line 1): expected "*" or an origin such as https://app.example.com; '
            "got 'app.example.com'",
        ),
        (
            "pools:\n",
            "pools:\n  bad name: {endpoints: [{name: b0, url: http://b}]}\n",
            "pools.bad name (line 11): expected a name of letters, digits, dots, hyphens and underscores, at most 128 "
            "characters; got 'bad name'",
        ),
        (
            "p-acme: {",
            "p-acme: {engine_api_key: k, engine_api_key_env: K, ",
            "pools.p-acme.engine_api_key_env (line 11): expected engine_api_key or engine_api_key_env, not both",
        ),
        (
            "p-acme: {",
            "p-acme: {engine_api_key_env: NOT_SET, ",
            "pools.p-acme.engine_api_key_env (line 11): expected the name of an environment variable that is set",
        ),
        (
            "p-acme: {",
            "p-acme: {timeout: {connect: 1}, ",
            "pools.p-acme.timeout (line 11): unknown key; did you mean 'timeouts'?",
        ),
        (
            "server: {",
            "sever: {}\nserver: {",
            "sever (line 1): unknown key; did you mean 'server'?",
        ),
        (
            "[llm.acme.example]",
            "llm.acme.example",
            "tenants.acme.hosts (line 4): expected a list, each a host such as llm.example.com, without port; got text",
        ),
    ],
)
def test_one_mistake_is_told_once_with_its_path_and_line(old: str, new: str, message: str) -> None:
    assert changed(old, new) == [message]


def test_a_shared_pool_serves_several_tenants() -> None:
    text = BASE.replace("pool: p-globex", "pool: p-acme").replace("p-acme: {", "p-acme: {shared: true, ")
    assert told(text) == []


def test_a_tenant_names_its_own_pool_with_several_models_and_may_repeat_its_own_host() -> None:
    text = BASE.replace("models: {qwen: {pool: p-acme}}", "models: {qwen: {pool: p-acme}, alias: {pool: p-acme}}")
    assert told(text.replace("[llm.acme.example]", "[llm.acme.example, acme.llm.example.com]")) == []


def test_two_free_ports_may_both_be_zero() -> None:
    assert changed("{base_domain: llm.example.com}", "{port: 0, admin_port: 0}") == []


def test_an_anonymous_tenant_needs_a_host_because_nothing_else_names_it() -> None:
    tenant = "tenants: {open: {anonymous: true}}\n"
    assert told(tenant) == [
        "tenants.open.anonymous (line 1): expected hosts, or server.base_domain: without a key only a host names a "
        "tenant"
    ]
    assert told(tenant + "server: {base_domain: llm.example.com}\n") == []
    assert told("tenants: {open: {anonymous: true, hosts: [open.example]}}\n") == []


def test_the_same_key_twice_is_found_whatever_its_case() -> None:
    digest = "ab" * 32
    text = BASE.replace(KEY, digest).replace(OTHER_KEY, digest.upper())
    assert [line.split(" (")[0] for line in told(text)] == ["tenants.globex.api_keys[0].sha256"]


def test_relations_are_checked_even_where_other_parts_are_no_configuration_at_all() -> None:
    text = BASE.replace("pool: p-globex", "pool: nowhere").replace(
        "server: {base_domain: llm.example.com}", "server: 3"
    )
    assert told(text) == [
        "server (line 1): expected a mapping; got a number",
        "tenants.globex.models.qwen.pool (line 9): expected the name of a pool; got 'nowhere'",
    ]


@pytest.mark.parametrize(
    "part",
    [
        "server: {secret: SECRET}",
        "server: {secret: [SECRET]}",
        "state: {redis_url: 'http://u:SECRET@redis'}",
        "state: {ledger_url: 'mysql://u:SECRET@db'}",
        "state: SECRET",
        "tenants: {acme: {api_keys: SECRET}}",
        "tenants: {acme: {api_keys: [SECRET]}}",
        "tenants: {acme: {api_keys: {ci: SECRET}}}",
        "tenants: {acme: {api_keys: [{id: ' SECRET', sha256: SECRET}]}}",
        "tenants: {acme: {api_keys: [{id: ci, key: SECRET}]}}",
        "tenants: {acme: {api_keys: [{id: ci, sha256: {SECRET: SECRET}}]}}",
        "tenants: {acme: {sha256: SECRET}}",
        "tenants: {acme: {tier: gold, limits: SECRET}}",
        "pools: {p: {engine_api_key: 'a SECRET', endpoints: [{name: e, url: 'http://u:SECRET@h'}]}}",
        "pools: {p: {engine_api_key_env: sk-SECRET, endpoints: [{name: e, url: 'http://h?key=SECRET'}]}}",
        "pools: {p: {engine_api_key_env: SECRET, endpoints: []}}",
        "pools: {p: {engine_api_key: *SECRET}}",
        "pools: {p: {engine_api_key: !SECRET x}}",
        "pools: {p: {engine_api_key: !!int SECRET}}",
        "pools: {p: {engine_api_key: SECRET: SECRET}}",
    ],
)
def test_no_message_repeats_a_secret(part: str) -> None:
    marked = part.replace("SECRET", SECRET).replace(f"{{{SECRET}: ", "{key: ")
    messages = told(marked)
    assert messages
    assert SECRET not in "\n".join(messages)


def test_a_mistaken_value_is_cut_before_it_floods_a_terminal() -> None:
    (message,) = told(f"routing: {{profile: {'x' * 5000}}}")
    assert len(message) < 300
    assert "x" * 50 in message


@pytest.mark.parametrize(
    ("url", "normal"),
    [
        ("http://h", "http://h"),
        ("HTTPS://H:443/", "https://h"),
        ("http://h:8000/base/", "http://h:8000/base"),
        ("http://[::1]:8000", "http://[::1]:8000"),
        ("http://vllm_0:8000", "http://vllm_0:8000"),
    ],
)
def test_an_engine_url_has_one_spelling(url: str, normal: str) -> None:
    assert engine_url(url) == normal
    assert engine_url(normal) == normal


def accepted(check: Callable[[str], str], text: str) -> bool:
    try:
        check(text)
    except ValueError:
        return False
    return True


NO_ENGINE_URLS = """
h:8000|http://|ftp://h|http://u@h|http://h?|http://h/#|http://h:0|http://h:99999|http://h h|http://-.é|http://[::1
http://[v1.x]|http:///path|http://h:x|http://..|HTTP|//h
"""


@pytest.mark.parametrize(
    "url", ["", "http://h\n", "http://h\tx", *NO_ENGINE_URLS.strip().replace("\n", "|").split("|")]
)
def test_what_is_no_engine_url_is_refused(url: str) -> None:
    assert not accepted(engine_url, url)


@pytest.mark.parametrize("host", ["a:80", "a/b", "", ".", "a..b", "x" * 254, "ü.example", "a b", "a\n"])
def test_what_is_no_host_is_refused(host: str) -> None:
    assert not accepted(host_name, host)


@pytest.mark.parametrize(
    ("more", "needed"),
    [
        ("", True),
        ("keys: {at_run_time: true}\n", False),
        ("state: {ledger_url: 'sqlite:///a.db'}\n", False),
        ("state: {ledger_url: 'sqlite:///a.db'}\nkeys: {at_run_time: false}\n", True),
    ],
)
def test_a_tenant_needs_a_key_of_the_file_only_where_none_is_made_at_run_time(more: str, needed: bool) -> None:
    messages = told(BASE.replace(f'    api_keys: [{{id: ci, sha256: "{OTHER_KEY}"}}]\n', "") + more)
    assert [line.split(":")[0].split(" (")[0] for line in messages] == (["tenants.globex"] if needed else [])
