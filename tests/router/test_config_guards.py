"""`tenants.<id>.guards` and `requests`: what is accepted, and what a mistake is told; never what a rule looks for."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from router.config import Config, ConfigError, loads
from router.guards.recognisers import PII_KINDS


def parse(*guards: Any, **tenant: Any) -> Config:
    config = {
        "tenants": {"acme": {"anonymous": True, "hosts": ["a.example"], "guards": list(guards), **tenant}},
        "pools": {"p": {"endpoints": [{"name": "e", "url": "http://e:8000"}]}},
    }
    return loads(yaml.safe_dump(config).encode(), {"KEY": "sk-value"})


def mistake(*guards: Any, **tenant: Any) -> str:
    with pytest.raises(ConfigError) as refused:
        parse(*guards, **tenant)
    return str(refused.value)


def test_a_rule_needs_a_name_and_something_to_look_for() -> None:
    rule = parse({"name": "r", "find": {"pii": list(PII_KINDS), "injection": True}}).tenants["acme"].guards[0]
    assert (rule.on, rule.action, rule.when_unavailable) == ("both", "block", "block")
    assert "guards[0].name" in mistake({"find": {"injection": True}})
    assert "something to look for" in mistake({"name": "r"})
    assert "something to look for" in mistake({"name": "r", "find": {"injection": False}})


def test_names_are_a_rules_own() -> None:
    one = {"name": "r", "find": {"injection": True}}
    told = mistake(one, one)
    assert "tenants.acme.guards[1].name" in told
    assert "tenants.acme.guards[0] has the same" in told


@pytest.mark.parametrize(
    ("pattern", "why"),
    [
        ("(", "regular expression"),
        ("hush[0-9]*", "at most 512 characters"),
        ("hush.+", "at most 512 characters"),
        ("^hush", r"without \^"),
        ("hush$", r"without \$"),
        ("hush?x*", "at most 512"),
        ("(?:hush)?", "one character at least"),
        ("(?:hush){e}", "braces only for a bound"),
        ("(?:hush){i<=3}", "braces only for a bound"),
        ("(?<=hush12)x", "looks back at most 4"),
        ("hush(?=.{600})", "at most 512"),
    ],
)
def test_a_pattern_that_cannot_be_used_in_a_stream_is_refused_without_being_shown(pattern: str, why: str) -> None:
    with pytest.raises(ConfigError, match=why) as refused:
        parse({"name": "r", "find": {"patterns": ["fine", pattern]}})
    told = str(refused.value)
    assert "tenants.acme.guards[0].find.patterns[1]" in told
    assert "hush" not in told


@pytest.mark.parametrize(
    "pattern", [r"\bproj-\d{2,6}\b", "(?i)abc", "a(?!b)", "(?<!x)y", "[é-ü]{1,9}", "(a|b){1,30}", r"\{x\}"]
)
def test_other_patterns_are_fine(pattern: str) -> None:
    parse({"name": "r", "find": {"patterns": [pattern]}})


def test_words_are_not_shown_either() -> None:
    told = mistake({"name": "r", "find": {"words": ["--", {"hush": 1}, 5]}})
    assert "find.words[0]" in told
    assert "hush" not in told
    assert "letter or a digit" in told


def test_unknown_kinds_are_told_with_those_that_are_known() -> None:
    told = mistake({"name": "r", "find": {"pii": ["email", "e-mail"]}})
    assert "find.pii[1]" in told
    assert "credit-card, iban" in told


def test_a_service_has_its_key_from_the_environment_and_cannot_redact() -> None:
    service = {"url": "https://mod.example/v1/moderations", "api_key_env": "KEY"}
    made = parse({"name": "r", "service": service}).tenants["acme"].guards[0].service
    assert made is not None
    assert made.api_key is not None
    assert made.api_key.get_secret_value() == "sk-value"
    assert "sk-value" not in repr(made)
    assert "no key stands in the file" in mistake({"name": "r", "service": {**service, "api_key": "sk-hush"}})
    assert "is set" in mistake({"name": "r", "service": {**service, "api_key_env": "NOT_SET"}})
    assert "whether, and not where" in mistake({"name": "r", "action": "redact", "service": service})
    told = mistake({"name": "r", "service": {"url": "https://user:hush@mod.example/x"}})
    assert "hush" not in told


def test_presidio_that_is_not_installed_is_a_mistake_of_the_configuration(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    from router.guards_builder import GuardsBuilder
    from router.metrics import Metrics

    monkeypatch.setitem(sys.modules, "presidio_analyzer", None)
    config = parse({"name": "r", "action": "redact", "presidio": {"entities": ["PERSON"]}})
    with pytest.raises(ConfigError, match=r"tenants.acme.guards\[0\].presidio.*pip install 'promptlane\[presidio\]'"):
        GuardsBuilder(config, Metrics(), lambda: 0.0).rules()


def test_requests_have_bounds() -> None:
    requests = parse(requests={"max_tokens": 512, "refuse_fields": ["logit_bias"]}).tenants["acme"].requests
    assert (requests.max_tokens, requests.refuse_fields) == (512, ("logit_bias",))
    assert "requests.max_tokens" in mistake(requests={"max_tokens": 0})
    assert "requests.refuse_fields[0]" in mistake(requests={"refuse_fields": ["a b"]})
