"""What an engine's `/v1/models` says that it serves.

Floor: sans-IO. The answer comes from an engine, and what cannot be read is nothing known.
"""

from __future__ import annotations

import json
from typing import Any

from policies.types import EngineModel

# An engine with more adapters than this has room for their names only in its own answer.
MOST_MODELS = 1000


def read_engine_models(body: bytes) -> tuple[EngineModel, ...] | None:
    """The models in the engine's order, its base model first; None for what is no list of models."""
    try:
        found = json.loads(body)
    except ValueError:  # also of an encoding
        return None
    entries = found.get("data") if isinstance(found, dict) else None
    if not isinstance(entries, list):
        return None
    models = (_model(entry) for entry in entries[:MOST_MODELS])
    return tuple(model for model in models if model is not None)


def _model(entry: Any) -> EngineModel | None:
    if not isinstance(entry, dict) or not isinstance(entry.get("id"), str):
        return None
    length = entry.get("max_model_len")
    return EngineModel(entry["id"], length if type(length) is int and length > 0 else None)
