"""Settings of the property tests of this folder."""

from __future__ import annotations

from hypothesis import settings

# A shared machine stalls now and then: a property is about what comes out, not about how fast.
settings.register_profile("no-deadline", deadline=None)
settings.load_profile("no-deadline")
