"""Pods become endpoints by the API's list and watch, whatever happens to the connection."""

from __future__ import annotations

import asyncio
import ssl
from pathlib import Path
from random import Random

import pytest
import trustme

from policies.types import Role
from router.kubernetes_api import ApiSettings, KubernetesApi
from router.wire.kubernetes import read_list
from tests.kubernetes_api import FakeKubernetes
from tests.router.discovery.conftest import looking, names, until


async def test_pods_are_listed_then_watched_and_come_and_go(api: FakeKubernetes) -> None:
    api.pod("a", port=8001)
    api.pod("loading", port=8002, ready=False)
    api.pod("b", namespace="globex", port=8003)
    api.pod("other", port=8004, labels={"app": "web"})
    async with looking(api) as source:
        await until("the first list", lambda: names(source) == {"p.a": ""})
        assert source.found is not None
        assert source.found[0].url == "http://127.0.0.1:8001"
        api.pod("loading", port=8002)
        await until("it is ready", lambda: names(source) == {"p.a": "", "p.loading": ""})
        api.pod("a", port=8001, ready=False)
        await until("one is not ready any more", lambda: names(source) == {"p.a": "unready", "p.loading": ""})
        api.pod("a", port=8001)
        await until("it is again", lambda: names(source) == {"p.a": "", "p.loading": ""})
        api.pod("a", port=8001, ending=True)
        await until("it ends", lambda: names(source) == {"p.a": "draining", "p.loading": ""})
        api.remove_pod("a")
        await until("it is gone", lambda: names(source) == {"p.loading": ""})
        api.pod("loading", port=8002, labels={"app": "something-else"})
        await until("it is selected no more", lambda: names(source) == {})
    assert [call.verb for call in api.calls] == ["list", "watch"]


async def test_role_and_weight_are_the_pods_own_and_a_pod_that_cannot_be_used_hides_no_other(
    api: FakeKubernetes, caplog: pytest.LogCaptureFixture
) -> None:
    api.pod("warm", port=1, labels={"promptlane/role": "warm"}, annotations={"promptlane/weight": "2.5"})
    api.pod("odd-role", port=2, labels={"promptlane/role": "lukewarm"})
    api.pod("odd-weight", port=3, annotations={"promptlane/weight": "-1"})
    api.pod("no-port")
    api.pod("no-address", port=4, ip="")
    api.pod("six", port=5, ip="fd00::1")
    async with looking(api) as source:
        await until("they are listed", lambda: source.found is not None)
        assert source.found is not None
        assert [(one.name, one.url, one.role, one.weight) for one in source.found] == [
            ("p.six", "http://[fd00::1]:5", Role.HOT, 1.0),
            ("p.warm", "http://127.0.0.1:1", Role.WARM, 2.5),
        ]
        assert source.failures == {"unusable": 3}
    assert "odd-role is no endpoint of pool p: its label promptlane/role is none of hot, warm, cold" in caplog.text


async def test_a_long_list_comes_in_pages_and_one_that_expires_between_is_begun_again(api: FakeKubernetes) -> None:
    api.page, api.expire_pages = 7, 1
    for number in range(20):
        api.pod(f"e{number}", port=9000 + number)
    async with looking(api) as source:
        await until("all are there", lambda: len(names(source)) == 20 and api.watching == 1)
        assert source.failures == {"expired": 1}
    assert [call.verb for call in api.calls] == ["list", "list", "list", "list", "list", "watch"]
    assert ["continue" in call.params for call in api.calls] == [False, True, False, True, True, False]


async def test_a_watch_that_is_cut_in_the_middle_of_a_line_goes_on_from_its_version(api: FakeKubernetes) -> None:
    api.pod("a", port=1)
    async with looking(api) as source:
        await until("it watches", lambda: api.watching == 1)
        api.pod("b", port=2)
        await until("b", lambda: "p.b" in names(source))
        api.cut()
        await until("it noticed", lambda: source.failures["unreachable"] == 1)
        api.pod("c", port=3)
        api.remove_pod("a")
        await until("nothing was missed", lambda: names(source) == {"p.b": "", "p.c": ""})
    assert [call.verb for call in api.calls] == ["list", "watch", "watch"]


@pytest.mark.parametrize("how", ["event", "answer", "nonsense"])
async def test_a_version_that_is_too_old_and_nonsense_are_answered_by_a_new_list(api: FakeKubernetes, how: str) -> None:
    api.pod("a", port=1)
    async with looking(api) as source:
        await until("it watches", lambda: api.watching == 1)
        if how == "event":
            api.expire()
        elif how == "nonsense":
            api.babble()
        else:
            api.compact()
            api.cut()
        await until("it noticed", lambda: sum(source.failures.values()) > 0)
        api.pod("b", port=2)
        await until("it knows all", lambda: names(source) == {"p.a": "", "p.b": ""})
        await until("and is well", lambda: source.problem is None)
    assert [call.verb for call in api.calls].count("list") == 2


async def test_a_bookmark_moves_the_version_so_that_a_compacted_past_is_not_asked_for(api: FakeKubernetes) -> None:
    api.pod("a", port=1)
    async with looking(api) as source:
        await until("it watches", lambda: api.watching == 1)
        before = api.calls[-1].params["resourceVersion"]
        api.compact()
        api.bookmark()
        api.cut()
        await until("it watches again", lambda: [one.verb for one in api.calls].count("watch") == 2)
        assert int(api.calls[-1].params["resourceVersion"]) > int(before)
        api.pod("b", port=2)
        await until("b", lambda: "p.b" in names(source))
    assert [call.verb for call in api.calls] == ["list", "watch", "watch"]


async def test_watches_end_in_time_and_follow_each_other(api: FakeKubernetes) -> None:
    async with looking(api, watch=1.0) as source:
        await until("some were over", lambda: [one.verb for one in api.calls].count("watch") >= 3)
        api.pod("a", port=1)
        await until("a", lambda: "p.a" in names(source))
        assert not source.failures
    assert [call.verb for call in api.calls].count("list") == 1


async def test_what_is_known_stays_while_the_api_is_away_and_is_right_once_it_is_back(api: FakeKubernetes) -> None:
    api.pod("a", port=1)
    api.pod("b", port=2)
    async with looking(api) as source:
        await until("it watches", lambda: api.watching == 1)
        api.kill()
        await until("it noticed", lambda: source.failures["unreachable"] >= 3)
        assert names(source) == {"p.a": "", "p.b": ""}
        assert "cannot be reached" in (source.problem or "")
        aged = source.age
        assert aged is not None
        await until("it ages", lambda: (source.age or 0.0) > aged)
        api.start()
        api.remove_pod("a")
        await until("a is gone", lambda: names(source) == {"p.b": ""})
        assert source.problem is None


async def test_an_api_that_is_busy_is_asked_when_it_says(api: FakeKubernetes) -> None:
    api.refuse = (429, "retry-after: 1\r\n")
    async with looking(api) as source:
        await until("it was refused", lambda: source.failures["status"] == 1)
        assert (source.found, source.problem) == (None, "the API answered 429: not now")
        api.refuse = None
        api.pod("a", port=1)
        await until("a", lambda: "p.a" in names(source) and api.watching == 1)
    assert [call.verb for call in api.calls] == ["list", "list", "watch"]


async def test_an_api_that_hangs_is_given_up_and_tried_again(api: FakeKubernetes) -> None:
    api.hangs = True
    async with looking(api, seconds=0.2) as source:
        await until("twice", lambda: source.failures["timeout"] >= 2)
        api.hangs = False
        api.pod("a", port=1)
        await until("a", lambda: "p.a" in names(source))


async def test_events_that_come_in_pieces_are_read_whole(api: FakeKubernetes) -> None:
    api.piece = 17
    async with looking(api) as source:
        await until("it watches", lambda: api.watching == 1)
        for number in range(5):
            api.pod(f"e{number}", port=100 + number)
        await until("all", lambda: len(names(source)) == 5)
        assert not source.failures


async def test_a_token_that_is_replaced_is_read_anew_and_a_wrong_one_is_told(
    api: FakeKubernetes, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "token"
    file.write_text("first\n")
    api.tokens = {"first"}
    api.pod("a", port=1)
    async with looking(api, token_file=str(file)) as source:
        await until("a", lambda: "p.a" in names(source))
        api.tokens = {"second"}
        api.cut()
        await until("it was refused", lambda: source.failures["credentials"] >= 1)
        assert names(source) == {"p.a": ""}
        file.write_text("second")
        await until("it is well", lambda: source.problem is None and api.watching == 1)
        assert api.calls[-1].token == "second"
        file.unlink()
        api.cut()
        await until("no token", lambda: source.problem == "the token's file cannot be read")
    assert "first" not in caplog.text
    assert "second" not in caplog.text


async def test_without_the_right_it_says_which_one_is_missing(api: FakeKubernetes) -> None:
    api.rights = {("list", "pods", "globex"), ("watch", "pods", "globex")}
    async with looking(api) as source:
        await until("it was refused", lambda: source.failures["forbidden"] >= 1)
        expected = 'the API answered 403: cannot list resource "pods" in the namespace "acme"'
        assert source.problem == expected
        api.rights = {("list", "pods", "acme"), ("watch", "pods", "acme")}
        await until("it may", lambda: source.found == () and source.problem is None)


async def test_the_api_is_asked_by_tls_and_only_if_its_certificate_is_trusted(tmp_path: Path) -> None:
    authority, other = trustme.CA(), trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "ca.crt"))
    other.cert_pem.write_to_path(str(tmp_path / "other.crt"))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(context)
    with FakeKubernetes(tls=context) as api:
        api.pod("a", port=1)
        file = tmp_path / "ca-file.crt"
        file.write_bytes((tmp_path / "other.crt").read_bytes())
        async with looking(api, ca_file=str(file)) as source:
            await until("it refuses to", lambda: source.failures["unreachable"] >= 1)
            assert "its certificate is not trusted" in (source.problem or "")
            assert not api.calls
            file.write_bytes((tmp_path / "ca.crt").read_bytes())  # authorities are replaced, too
            await until("a", lambda: "p.a" in names(source))


async def test_outside_a_cluster_without_an_address_it_says_so(api: FakeKubernetes) -> None:
    async with looking(api, url=None) as source:
        await source.first()
        assert "no API is known" in (source.problem or "")


async def test_in_a_cluster_the_pods_own_account_is_used(tmp_path: Path) -> None:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "ca.crt"))
    (tmp_path / "token").write_text("the account's")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(context)
    with FakeKubernetes(tls=context, tokens={"the account's"}) as api:
        around = {"KUBERNETES_SERVICE_HOST": "localhost", "KUBERNETES_SERVICE_PORT": str(api.port)}
        client = KubernetesApi(ApiSettings(), around, tmp_path)
        assert read_list(await client.call("GET", "/api/v1/namespaces/acme/pods")).items == []
        await client.renew()


@pytest.mark.parametrize("seed", range(6))
async def test_whatever_happens_to_pods_and_connections_it_knows_in_the_end_what_there_is(
    api: FakeKubernetes, seed: int
) -> None:
    random = Random(seed)
    pods: dict[str, str] = {}  # names, and what they get; empty: everything
    api.page, api.piece = random.choice([3, 500]), random.choice([0, 40])
    away = False
    async with looking(api, watch=random.choice([1.0, 60.0])) as source:
        for step in range(60):
            what = random.choice(["new", "new", "unready", "ready", "ending", "gone", "fault"])
            name = random.choice(list(pods)) if pods and what != "new" else f"e{step}"
            if what in ("new", "ready") and pods.get(name) != "draining":
                pods[name] = ""
                api.pod(name, port=1000 + int(name[1:]))
            elif what in ("unready", "ending") and pods.get(name) == "":
                pods[name] = {"unready": "unready", "ending": "draining"}[what]
                api.pod(name, port=1000 + int(name[1:]), ready=False, ending=what == "ending")
            elif what == "gone" and name in pods:
                del pods[name]
                api.remove_pod(name)
            elif away:
                api.start()
                away = False
            elif what == "fault":
                fault = random.choice([api.cut, api.expire, api.babble, api.compact, api.bookmark, api.kill])
                fault()
                away = fault == api.kill
            await asyncio.sleep(random.choice([0.0, 0.01]))
        if away:
            api.start()
        # What was not ready when the gateway first saw it may stay unknown: it gets nothing either way.
        ready = {f"p.{name}" for name, said in pods.items() if not said}
        await until("it knows who is ready", lambda: {one for one, said in names(source).items() if not said} == ready)
        there = {f"p.{name}": said for name, said in pods.items()}
        await until("and nobody else", lambda: names(source).items() <= there.items())
