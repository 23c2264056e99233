"""What requests in flight need of the cache does not drift, however wrongly and differently prompts are estimated."""

from __future__ import annotations

from random import Random

import pytest

from policies.kv_need import KvCharge, KvNeed
from policies.reservation import Reservation
from tests.policies.builders import chain_of, make_request, make_state


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_on_an_engine_that_is_never_idle_misjudged_prompts_leave_nothing_behind(seed: int) -> None:
    """Shared prefixes outlive who brought them, and each request thinks otherwise of how large they are."""
    state, rng = make_state(), Random(seed)
    state.size_index(10_000)
    live: list[Reservation] = []
    for step in range(3_000):
        error = rng.uniform(0.7, 1.3)
        shared = chain_of([rng.randrange(12)] * 60)
        blocks = (*shared, *(hash(("own", step, place)) for place in range(5)))
        tokens = int(64 * error * len(blocks))
        request = make_request(prompt_tokens=tokens, blocks=blocks, tokens_per_block=64 * error)
        live.append(state.reserve(request, 0, 0.1, float(step)))
        if rng.random() < 0.7:
            rng.choice(live).first_token(float(step))
        if len(live) > 6:
            live.pop(rng.randrange(6)).release(float(step))
            distinct = {block for one in live for block in one.request.prefix_blocks}
            assert state.kv_tokens == pytest.approx(64 * len(distinct) + 100 * len(live), rel=0.3)
    for one in live:
        one.release(9e9)
    assert state.kv_tokens == 0


def test_what_is_inside_are_prompts_and_half_of_the_answers() -> None:
    need = KvNeed()
    first, second = KvCharge(10, 640.0, 60.0, 50.0), KvCharge(10, 640.0, 110.0, 100.0)
    need.add(first, 700.0)
    need.prefilled(first, 700.0)
    assert (need.tokens(10), need.inside(10, queued=False)) == (700.0, 675.0)
    need.add(second, 110.0)  # shares all its blocks
    assert need.tokens(10) == 810.0
    assert (need.inside(10, queued=False), need.inside(10, queued=True)) == (730.0, 675.0)
    need.remove(second, 110.0, prefilling=True)
    assert need.inside(10, queued=True) == 675.0
    need.remove(first, 700.0, prefilling=False)
    assert need == KvNeed()
