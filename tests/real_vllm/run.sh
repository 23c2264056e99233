#!/usr/bin/env bash
# The suites on real vLLM servers (`make test-vllm`): installs what is missing, then runs tests/e2e, tests/real_vllm and
# what tests/chaos has for them. Needs .venv, which every make target makes. Further arguments go to pytest, e.g. `tests/real_vllm/run.sh -k stream`.
# The exit status is pytest's.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
cd "$here/../.."
"$here/install.sh"
exec .venv/bin/python -m pytest tests/e2e tests/real_vllm tests/chaos --engine=vllm "$@"
