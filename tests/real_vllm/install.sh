#!/usr/bin/env bash
# Installs the real vLLM for the CPU into .venv-vllm and makes the tiny model in .work/models/tiny.
#
# Both are skipped when they are already there: a stamp holds the checksum of what they were made from, and is written
# last, so an installation that broke off is made anew. About two minutes and 2.3 GB; needs Python 3.11 (or $PYTHON311).
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/../.." && pwd)
venv=$root/.venv-vllm
model=$root/.work/models/tiny

say() { printf 'real vLLM: %s\n' "$*" >&2; }

# The CPU build of torch that this vLLM was compiled against is a wheel for CPython 3.11 only.
find_python() {
  local candidate
  for candidate in ${PYTHON311:-} "$root/.venv/bin/python" python3.11 python3 python; do
    if "$candidate" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' 2>/dev/null; then
      echo "$candidate"
      return
    fi
  done
  say "needs Python 3.11 and found none: put python3.11 on PATH or set PYTHON311=/path/to/it"
  return 1
}

checksum() { cat "$@" | sha256sum | cut -d' ' -f1; }

install_packages() {
  local stamp=$venv/.installed wanted python
  wanted=$(checksum "$here/requirements-vllm.txt")
  if [ "$(cat "$stamp" 2>/dev/null)" = "$wanted" ]; then
    say "packages are installed"
    return
  fi
  python=$(find_python)
  say "installing $(grep -c "^[^#].*==" "$here/requirements-vllm.txt") packages with $("$python" --version): about two minutes"
  rm -rf "$venv"
  "$python" -m venv "$venv"
  "$venv/bin/python" -m pip install -qq --progress-bar off --disable-pip-version-check --no-deps \
    -r "$here/requirements-vllm.txt"
  # Some registries offer only the CUDA build of torch, whose own libraries --no-deps has left out.
  if ! "$venv/bin/python" -c 'import torch' 2>/dev/null; then
    say "this torch is not a CPU build: fetching the libraries that it loads"
    "$venv/bin/python" -m pip install -qq --progress-bar off --disable-pip-version-check \
      "$(grep '^torch==' "$here/requirements-vllm.txt")"
  fi
  "$venv/bin/python" -c 'import torch, vllm; print(f"real vLLM: vllm {vllm.__version__}, torch {torch.__version__}")' >&2
  echo "$wanted" >"$stamp"
}

make_model() {
  local stamp=$model/.made wanted
  wanted=$(checksum "$here/make_tiny_model.py" "$here/requirements-vllm.txt")
  if [ "$(cat "$stamp" 2>/dev/null)" = "$wanted" ]; then
    say "the tiny model is made"
    return
  fi
  say "making the tiny model"
  rm -rf "$model"
  mkdir -p "$model"
  "$venv/bin/python" "$here/make_tiny_model.py" "$model" >&2
  echo "$wanted" >"$stamp"
}

install_packages
make_model
