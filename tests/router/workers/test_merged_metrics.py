"""The metrics of several workers as those of one: what is added up, what the owner says, and what may never fall."""

from __future__ import annotations

from router.metrics import COUNTERS, Metrics
from router.workers.merged_metrics import NOT_OF_WORKERS, RULES, MergedMetrics, read
from router.workers.metrics import SupervisorMetrics
from router.workers.place import Stage
from tests.docs import ALL_GAUGES

COUNTED = "promptlane_requests_total"


def says(requests: int = 0, *, seconds: float = 0.1) -> str:
    """A worker's own text."""
    metrics = Metrics()
    for _ in range(requests):
        metrics.add("promptlane_requests", "acme", "chat", "short", "200")
        metrics.observe("promptlane_request_seconds", seconds, "acme", "chat", "short")
    metrics.add("promptlane_config_reloads", "ok")
    return metrics.render().decode()


def gauges(pool: str, part: str, **values: float) -> str:
    lines = [f'promptlane_replica_part{{pool="{pool}",part="{part}"}} 1.0']
    lines += [f'promptlane_{name}{{pool="{pool}",endpoint="e"}} {value}' for name, value in values.items()]
    names = [line.partition("{")[0] for line in lines]
    return "".join(f"# TYPE {name} gauge\n{line}\n" for name, line in zip(names, lines, strict=True))


def values(text: bytes, name: str) -> list[float]:
    return [float(line.split()[-1]) for line in text.decode().splitlines() if line.startswith(name)]


def rendered(merged: MergedMetrics, **texts: str) -> bytes:
    return merged.render({life: merged.heard(life, text) for life, text in texts.items()}, "")


def test_of_exemplars_the_last_of_all_workers_is_shown() -> None:
    open_metrics = "application/openmetrics-text; version=1.0.0"

    def saw(seconds: float, trace: str, at: float) -> str:
        metrics = Metrics(wall_clock=lambda: at)
        metrics.observe("promptlane_request_seconds", seconds, "acme", "chat", "short", trace=trace)
        return metrics.scraped(open_metrics)[0].decode()

    merged = MergedMetrics()
    texts = {"a": saw(0.2, "first", 5.0), "b": saw(0.2, "last", 7.5), "c": saw(0.2, "between", 6.0)}
    now = {life: merged.heard(life, text) for life, text in texts.items()}
    merged.left("a")
    text, kind = merged.scraped({life: now[life] for life in "bc"}, says(0), open_metrics)
    assert kind.startswith("application/openmetrics-text")
    shown = [line for line in text.decode().splitlines() if "trace_id" in line]
    assert [line.partition(" # ")[2] for line in shown] == ['{trace_id="last"} 0.2 7.500000000']
    assert shown[0].partition(" # ")[0].endswith(" 3.0"), "all are counted"
    assert b"trace_id" not in merged.scraped(now, "", "text/plain")[0]


def test_every_gauge_there_is_has_a_rule() -> None:
    assert set(RULES) >= set(ALL_GAUGES)
    processes = {
        name for name, family in read(SupervisorMetrics(lambda: ()).render()).items() if family.kind == "gauge"
    }
    assert processes <= set(RULES)
    assert set(COUNTERS) >= NOT_OF_WORKERS


def test_of_an_endpoints_status_only_the_owners_word_counts() -> None:
    def says_status(part: str, status: str) -> str:
        row = f'promptlane_endpoint_status{{pool="p",endpoint="e",role="hot",status="{status}"}} 1.0'
        return gauges("p", part) + f"# TYPE promptlane_endpoint_status gauge\n{row}\n"

    text = rendered(MergedMetrics(), a=says_status("leads", "hung"), b=says_status("follows", "healthy")).decode()
    assert 'status="hung"' in text
    assert 'status="healthy"' not in text
    alone = rendered(MergedMetrics(), a=says_status("alone", "hung"), b=says_status("alone", "healthy")).decode()
    assert 'status="hung"' in alone
    assert 'status="healthy"' in alone, "nobody decides: all are told"


def test_counters_and_histograms_are_added_up_and_each_family_is_told_once() -> None:
    merged = MergedMetrics()
    text = rendered(merged, a=says(3, seconds=0.02), b=says(4, seconds=20.0))
    assert values(text, COUNTED) == [7.0]
    assert values(text, "promptlane_request_seconds_count") == [7.0]
    assert values(text, "promptlane_request_seconds_sum") == [3 * 0.02 + 4 * 20.0]
    buckets = dict(read(text.decode())["promptlane_request_seconds"].values.items())
    by_bound = {dict(labels)["le"]: value for (name, labels), value in buckets.items() if name.endswith("_bucket")}
    assert (by_bound["0.025"], by_bound["10.0"], by_bound["30.0"], by_bound["+Inf"]) == (3, 3, 7, 7)
    assert (
        text.count(b"# TYPE promptlane_requests_total counter") == text.count(b"# HELP promptlane_requests_total") == 1
    )
    assert b"promptlane_config_reloads" not in text


def test_what_a_worker_counted_stays_when_it_ends_and_its_successor_begins_at_nothing() -> None:
    merged = MergedMetrics()
    assert values(rendered(merged, a=says(3), b=says(4)), COUNTED) == [7.0]
    merged.left("a")
    assert values(rendered(merged, b=says(4)), COUNTED) == [7.0]
    assert values(rendered(merged, b=says(5), a2=says(1)), COUNTED) == [9.0]
    merged.left("a2")
    merged.left("a2")
    merged.left("never heard")
    assert values(rendered(merged, b=says(5)), COUNTED) == [9.0]


def test_who_does_not_answer_counts_as_last_heard_and_has_no_gauges() -> None:
    merged = MergedMetrics()
    full = gauges("p", "leads", endpoint_in_flight=9)
    rendered(merged, a=says(3) + full, b=says(4) + gauges("p", "follows", endpoint_in_flight=2))
    text = rendered(merged, b=says(6) + gauges("p", "follows", endpoint_in_flight=2))
    assert values(text, COUNTED) == [9.0]
    assert values(text, "promptlane_endpoint_in_flight") == [2.0]


def test_of_a_pool_its_owner_says_how_it_is_and_where_nobody_is_all_together_do() -> None:
    merged = MergedMetrics()
    said = {"endpoint_in_flight": 5.0, "endpoint_connections": 2.0, "endpoint_available": 0.0}
    owner = gauges("p", "leads", **said)
    follower = gauges("p", "follows", endpoint_in_flight=3, endpoint_connections=3, endpoint_available=1)
    text = rendered(merged, a=follower, b=owner)
    assert values(text, "promptlane_endpoint_in_flight") == [5.0]
    assert values(text, "promptlane_endpoint_available") == [0.0]
    assert values(text, "promptlane_endpoint_connections") == [5.0]
    assert sorted(values(text, "promptlane_replica_part")) == [1.0, 1.0]
    text = rendered(merged, a=follower, b=owner.replace("leads", "follows"))
    assert values(text, "promptlane_endpoint_in_flight") == [8.0]
    assert values(text, "promptlane_endpoint_available") == [1.0]
    assert values(text, "promptlane_replica_part") == [2.0]


def test_an_owner_of_one_pool_says_nothing_of_another() -> None:
    first = gauges("p", "leads", endpoint_in_flight=5) + gauges("q", "follows", endpoint_in_flight=1)
    second = gauges("p", "follows", endpoint_in_flight=2) + gauges("q", "leads", endpoint_in_flight=7)
    found = read(rendered(MergedMetrics(), a=first, b=second).decode())["promptlane_endpoint_in_flight"].values
    assert {dict(labels)["pool"]: value for (_, labels), value in found.items()} == {"p": 5.0, "q": 7.0}


def test_the_supervisors_own_are_beside_them() -> None:
    own = SupervisorMetrics(lambda: [Stage.SERVING, Stage.SERVING, Stage.PAUSED])
    own.restarts["1"] += 2
    own.reloads["ok"] += 1
    merged = MergedMetrics()
    text = merged.render({"a": merged.heard("a", says(1))}, own.render())
    assert b'promptlane_worker_restarts_total{worker="1"} 2.0' in text
    assert b'promptlane_config_reloads_total{result="ok"} 1.0' in text
    assert b'promptlane_workers{stage="serving"} 2.0' in text
    assert values(text, "process_resident_memory_bytes")[0] > 0
