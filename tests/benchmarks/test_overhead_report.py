"""The benchmark's figures: medians, ratios of the same run, and a reason for every gateway that has none."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.overhead import arguments
from benchmarks.overhead_parts import goals
from benchmarks.overhead_parts.gateways import GATEWAYS
from benchmarks.overhead_parts.measure import percentile
from benchmarks.overhead_parts.measures import CONVERSATION, figures
from benchmarks.overhead_parts.report import Result, as_json, full_table, table
from benchmarks.overhead_parts.rounds import Turn, waves
from benchmarks.overhead_parts.traffic import REQUESTS, STREAMS, bodies, requests


def turn(request_us: float, busy_percent: float = 100.0, others_percent: float = 1.0) -> Turn:
    return Turn(
        request_us=request_us,
        chunk_us=request_us / 4,
        added_p50_ms=request_us / 400,
        requests_per_s=1e6 / request_us,
        first_byte_p50_ms=11.0,
        rss_mb=50.0,
        busy_percent=busy_percent,
        others_percent=others_percent,
        raw={},
    )


def line(text: str, name: str) -> str:
    return next(line for line in text.splitlines() if line.split()[:1] == [name])


def test_the_table_shows_medians_and_their_ratio_to_promptlane() -> None:
    ours = Result("promptlane", [turn(80), turn(200), turn(100)])
    text = table([ours, Result("nginx", [turn(20), turn(40), turn(25)])])
    assert line(text, "promptlane").split()[1:5] == ["100.0", "1.00x", "25.0", "1.00x"]
    assert line(text, "nginx").split()[1:5] == ["25.0", "0.25x", "6.2", "0.25x"]
    assert line(text, "promptlane").split()[-2:] == ["120%", "3"]


def with_more(result: Result, **more: float) -> Result:
    for one in result.turns:
        one.more.update(more)
    return result


def test_a_full_run_has_a_line_per_figure_with_ratios_and_a_dash_for_what_was_not_asked_for() -> None:
    ours = with_more(Result("promptlane", [turn(80), turn(90)]), **{"a: µs/request": 50.0, "b: p99 ms": 2.0})
    text = full_table([ours, with_more(Result("litellm", [turn(9000)]), **{"a: µs/request": 5000.0})])
    rows = {row.strip().split(":")[0]: row.split() for row in text.splitlines()[1:]}
    assert rows["a"][2:] == ["50", "1.00x", "5,000", "100.00x"]
    assert rows["b"][3:] == ["2.00", "1.00x", "-"]
    assert "-" not in full_table([ours])


def test_goals_are_met_or_missed_by_the_medians_and_silent_without_a_figure() -> None:
    ours = with_more(Result("promptlane", [turn(100)]), **{f"{CONVERSATION}: µs/request": 90.0})
    theirs = with_more(Result("sglang-router", [turn(160)]), **{f"{CONVERSATION}: µs/request": 100.0})
    found = list(goals.lines({"promptlane": ours, "sglang-router": theirs, "litellm": Result("litellm", absent="no")}))
    of = {line.split(": ")[1]: line for line in found}
    assert of["CPU per request, short chat, 32 connections"].endswith("at most 0.65 times sglang-router's: 0.62 met")
    assert of["CPU per request, growing conversation"].endswith("0.90 MISSED")
    assert of["added time to first byte, 64 streams together"].endswith("1.00 MISSED")  # 11 ms both, the engine's 10
    assert "nginx" not in " ".join(found)
    assert "litellm" not in " ".join(found)
    litellm = list(goals.lines({"promptlane": ours, "litellm": Result("litellm", [turn(9000)])}))
    assert [line.endswith("at least 80 times: 90.00 met") for line in litellm] == [True]


def test_figures_of_a_load_are_named_after_it() -> None:
    usage = {"cpu_seconds": 1.0, "answers": 1000, "chunks": 0, "seconds": 2.0, "p50_ms": 3.0, "p99_ms": 4.0}
    assert figures("x", usage)["x: µs/request"] == 1000
    assert figures("x", usage)["x: requests/s"] == 500
    stream = usage | {"chunks": 4000, "first_byte_p50_ms": 11.0, "rss_mb": 90.0}
    assert figures("y", stream) == {"y: µs/chunk": 250, "y: first byte ms": 11.0, "y: RSS MB": 90.0}


def test_without_promptlane_there_are_figures_but_no_ratios() -> None:
    text = table([Result("promptlane", absent="no program"), Result("nginx", [turn(25)])])
    assert "x" not in line(text, "nginx").removeprefix("        nginx").replace("nginx", "")
    assert "promptlane: absent: no program" in text
    assert "no ratios" in text


def test_a_gateway_that_fails_keeps_its_turns_and_says_why_there_are_no_more() -> None:
    text = table([Result("promptlane", [turn(80)]), Result("nginx", [turn(25)], failed="hammer: not a 200")])
    assert line(text, "nginx").split()[-1] == "1"
    assert "nginx: FAILED: hammer: not a 200" in text


def test_requests_per_second_of_an_idle_gateway_are_marked_as_a_lower_bound() -> None:
    text = table([Result("promptlane", [turn(100)]), Result("nginx", [turn(25, busy_percent=60)])])
    assert ">40,000" in line(text, "nginx")
    assert ">" not in line(text, "promptlane")


def test_a_run_beside_other_programs_says_that_it_is_noisy_and_for_which_gateways() -> None:
    quiet, loud = Result("promptlane", [turn(100)]), Result("nginx", [turn(25, others_percent=80)])
    assert "NOISY: other programs took over 20 % of a core beside nginx: run again" in table([quiet, loud])
    assert "NOISY" not in table([quiet])


def test_the_json_holds_medians_ratios_turns_and_reasons() -> None:
    results = [
        Result("promptlane", [turn(80), turn(100), turn(90)]),
        Result("nginx", [turn(45)]),
        Result("vllm-router", absent="no"),
    ]
    found = json.loads(json.dumps(as_json(results, {"rounds": 3})))
    assert found["run"]["rounds"] == 3
    assert found["gateways"]["promptlane"]["medians"]["request_us"] == 90
    assert found["gateways"]["nginx"]["ratios"]["request_us"] == 0.5
    assert len(found["gateways"]["promptlane"]["turns"]) == 3
    assert found["gateways"]["vllm-router"] == {
        "medians": {},
        "ratios": {},
        "more": {},
        "name": "vllm-router",
        "turns": [],
        "absent": "no",
        "failed": "",
    }


@given(st.lists(st.floats(0, 1e6), min_size=1), st.floats(0.01, 1.0))
def test_a_percentile_is_a_value_that_this_share_does_not_exceed(values: list[float], share: float) -> None:
    found = percentile(values, share)
    assert found in values
    assert sum(value <= found for value in values) >= share * len(values)
    assert sum(value < found for value in values) < share * len(values)


def test_a_percentile_of_nothing_is_an_error() -> None:
    with pytest.raises(ValueError, match="no values"):
        percentile([], 0.5)


def test_the_default_run_measures_every_gateway() -> None:
    ours = ["promptlane", "promptlane-interpreted", "promptlane+resume"]
    usual = [*ours, "nginx", "python-floor", "sglang-router", "vllm-router"]
    assert arguments([]).gateways == usual
    assert (
        arguments(["--full"]).gateways
        == [
            *usual,
            "litellm",
            "promptlane+1worker",
            "promptlane+2workers",
        ]
        == list(GATEWAYS)
    )
    assert arguments(["--gateways", "nginx,nginx"]).gateways == ["nginx"]


@pytest.mark.parametrize(
    "argv", [["--gateways", "apache"], ["--rounds", "0"], ["--seconds", "0"], ["--seconds", "1e9"], ["--rounds", "x"]]
)
def test_arguments_that_make_no_sense_are_refused(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        arguments(argv)
    assert argv[0] in capsys.readouterr().err


def test_prompts_differ_and_are_the_same_in_every_run() -> None:
    first, second = bodies(REQUESTS), bodies(REQUESTS)
    assert first == second
    assert len(set(first)) == len(first) > REQUESTS.connections
    assert all(json.loads(body)["stream"] and json.loads(body)["max_tokens"] == 64 for body in bodies(STREAMS))


def test_a_request_carries_the_headers_and_the_length_of_its_body() -> None:
    request = requests(REQUESTS, "127.0.0.1:1", {"authorization": "Bearer key"})[0]
    head, _, body = request.partition(b"\r\n\r\n")
    assert b"\r\nauthorization: Bearer key\r\n" in head
    assert head.endswith(b"content-length: %d" % len(body))


def test_streams_fill_about_the_time_of_a_measurement() -> None:
    assert [waves(STREAMS, seconds) for seconds in (0.1, 0.64, 3.0)] == [1, 1, 5]
