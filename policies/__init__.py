"""Decisions, and nothing else: `policies` decides and never waits.

Rule of the floor: imports the standard library, `xxhash` and itself; no `asyncio`, `time`, `logging`, `os`, `socket`,
nothing from `router`. Time comes in as `now: float` (monotonic seconds), randomness as a `random.Random`. So the
gateway, a replay on a virtual clock and the tests run the same objects. A normal "no" is a `Rejection` value.

Where to begin: `types` (the nouns), `interface` (the ports), `registry` (the profiles), `dispatch` (one pass).
"""
