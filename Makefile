# Everything runs in .venv, made from requirements.lock. Needs Python 3.11+, make and the package registries.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready
# What bench-routing replays without TRACE; with it nothing is made.
MADE := $(if $(TRACE),,$(patsubst %,.work/traces/synthetic-%.jsonl.gz,chat agents hot-prefix))
# The same for bench-replicas, whose gateway processes get the first one.
SHARED := $(if $(TRACE),,$(patsubst %,.work/traces/synthetic-%.jsonl.gz,agents chat))

COMPILED_OBJECTS := tests/policies $(wildcard $(addprefix tests/router/test_,app.py attempts.py gateway.py hedging.py \
  degraded.py isolation.py limits.py measure.py pools*.py relay.py request_records.py resume.py reuse.py server.py tenants.py upstream*.py wire_*.py))

PROCESSES := tests/e2e tests/benchmarks tests/chaos

.DEFAULT_GOAL := help
.PHONY: help demo test lint types unit unit-objects unit-processes compiled test-compiled compiled-objects compiled-processes properties-long test-vllm chaos chaos-long chaos-kill chaos-replicas chaos-replicas-long chaos-ledger bench-overhead bench-overhead-full bench-scale bench-routing bench-decide bench-fleet bench-vllm bench-loop bench-stages bench-limits bench-journal bench-guards bench-replicas bench-ledger bench-observed bench-features bench-usage soak docs dashboards lock clean

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 22

$(READY): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Promptlane needs Python 3.11 or newer; this is " + sys.version.split()[0] + ". Try: make PYTHON=python3.11")'
	$(PYTHON) -m venv --clear .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

demo: $(READY)  ## start simulated engines and the gateway, send real requests, keep serving until Ctrl-C
	@exec $(BIN)/python -m benchmarks.demo

test: lint types unit  ## lint, types and tests: what must pass before a change lands

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(READY)
	$(BIN)/mypy

# Tests of processes wait most of the time and those of the objects compute: together they take as long as the first.
unit: $(READY)
	@$(MAKE) --no-print-directory -j2 unit-objects unit-processes

unit-processes: $(READY)
	$(BIN)/pytest $(PROCESSES)

unit-objects: $(READY)
	@mkdir -p .work
	@$(BIN)/pytest tests $(PROCESSES:%=--ignore=%) >.work/unit-objects.log 2>&1; \
	  status=$$?; cat .work/unit-objects.log; exit $$status

compiled: $(READY)  ## the hot path compiled by mypyc into .work/compiled, where it is not yet (4 to 6 minutes; needs gcc)
	$(BIN)/python -m deploy.compiled.build --out .work/compiled

test-compiled: compiled  ## end-to-end and gateway tests of the compiled form
	@COMPILED=.work/compiled $(MAKE) --no-print-directory -j2 compiled-objects compiled-processes

# The rest of tests/e2e is of what is not compiled: workers, discovery, keys, the ledger.
COMPILED_PROCESSES := $(patsubst %,tests/e2e/test_%.py,answers attempt_limits disconnect errors guards identity lanes \
  prefix_sharing python_sdks response_cache resume retries usage)

compiled-processes: $(READY)
	$(BIN)/pytest $(COMPILED_PROCESSES)

compiled-objects: $(READY)
	@$(BIN)/pytest $(COMPILED_OBJECTS) >.work/compiled-objects.log 2>&1; \
	  status=$$?; cat .work/compiled-objects.log; exit $$status

properties-long: $(READY)  ## property tests on examples drawn anew, four times; CI has the same ones in each run (20 min)
	@for round in 1 2 3 4; do \
	  PROPERTIES=drawn $(BIN)/pytest -m hypothesis tests $(PROCESSES:%=--ignore=%) || exit; done

test-vllm: $(READY)  ## the end-to-end suite against the real vLLM on the CPU (installs it; 2.3 GB)
	tests/real_vllm/run.sh

chaos: $(READY)  ## 20 seeded schedules of faults on real processes; one of them alone: SEED=7 make chaos
	$(BIN)/python -m tests.chaos

chaos-long: $(READY)  ## 200 of them
	$(BIN)/python -m tests.chaos --schedules 200

chaos-kill: $(READY)  ## one of two engines killed at full load: requests lost, and the pause that clients see
	$(BIN)/python -m tests.chaos.kill

chaos-replicas: $(READY)  ## 14 of faults on three replicas, their Redis and the network between (3 min); SEED=7 as above
	$(BIN)/python -m tests.chaos.replicas

chaos-replicas-long: $(READY)  ## 100 of them
	$(BIN)/python -m tests.chaos.replicas --schedules 100

chaos-ledger: $(READY)  ## 10,000 requests twice, kills of gateways and of PostgreSQL or SQLite between, and whether the records add up
	$(BIN)/python -m tests.chaos.ledger

bench-overhead: $(READY)  ## CPU per request and per streamed chunk, beside nginx and the Rust routers
	$(BIN)/python -m benchmarks.overhead

bench-overhead-full: .venv/.plots  ## the same with longer prompts, more connections and streams, LiteLLM, two workers (40 min)
	$(BIN)/python -m benchmarks.overhead --full --json .work/overhead.json --plot .work/overhead.png

bench-stages: $(READY)  ## where the CPU of a request goes, by stage and file (py-spy)
	$(BIN)/python -m benchmarks.stages

bench-scale: $(READY)  ## how the cost grows with endpoints, tenants, keys, prompts, turns, prefix blocks and streams (8 min)
	$(BIN)/python -m benchmarks.scale

bench-routing: $(MADE) .venv/.plots  ## routing policies on a virtual clock, on made workloads or a trace: TRACE=FILE
	@for trace in $(if $(TRACE),"$(TRACE)",$(MADE)); do \
	  name=$$(basename "$$trace" | cut -d. -f1); \
	  $(BIN)/python -m benchmarks.replay --trace "$$trace" --load 0.85 1.05 --goodput \
	    --json ".work/routing/$$name.json" --plots .work/routing || exit; echo; done

$(MADE): .work/traces/synthetic-%.jsonl.gz: $(READY) benchmarks/replay_parts/workloads.py benchmarks/replay_parts/sessions.py
	@$(BIN)/python -m benchmarks.replay_parts.workloads $* --out $@

.venv/.plots: $(READY) benchmarks/requirements-plots.txt
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r benchmarks/requirements-plots.txt \
	  && touch $@ || echo "matplotlib could not be installed: there will be no plots"

bench-decide: $(READY)  ## CPU time of a routing decision and of a pass over a full queue
	$(BIN)/python -m benchmarks.decide

bench-fleet: $(READY)  ## the gateway process before simulated engines, on a trace: make bench-fleet TRACE=FILE
	$(BIN)/python -m benchmarks.fleet --trace "$(TRACE)"

bench-vllm: $(READY)  ## time to first token of two real vLLM servers on the CPU (installs vLLM; 2.3 GB)
	$(BIN)/python -m benchmarks.real_vllm

bench-loop: $(READY)  ## for how long a long prompt keeps the event loop
	$(BIN)/python -m benchmarks.loop

bench-limits: $(READY)  ## four replicas, and 800 clients that hammer limits for a minute
	$(BIN)/python -m benchmarks.limits

bench-guards: $(READY)  ## what content rules cost, and by how much they delay a stream
	$(BIN)/python -m benchmarks.guards

bench-journal: $(READY)  ## what the journal of affinity costs the owner of a pool, in CPU
	$(BIN)/python -m benchmarks.journal

bench-replicas: $(READY) $(SHARED)  ## several gateways that share a pool beside one, on made workloads or traces: TRACE="FILE FILE"
	$(BIN)/python -m benchmarks.replicas --trace $(or $(TRACE),$(SHARED)) --json .work/replicas.json

bench-ledger: $(READY)  ## what a request's metrics cost, and its record: on the event loop, and in the threads that write and move it
	$(BIN)/python -m benchmarks.ledger

bench-observed: $(READY)  ## what records and traces cost: CPU of a whole compiled gateway per request with them and without
	$(BIN)/python -m benchmarks.observed --compiled

bench-features: $(READY)  ## what each feature costs of a compiled gateway's CPU per request, beside the routers and the least that Python can do
	$(BIN)/python -m benchmarks.features

bench-usage: $(READY)  ## how long reports of a month take beside very many records: RECORDS=10000000 make bench-usage
	$(BIN)/python -m benchmarks.usage $(if $(RECORDS),--records $(RECORDS))

soak: $(READY)  ## 2,000 concurrent streams through one gateway process for a minute
	$(BIN)/python -m benchmarks.soak

docs: $(READY)  ## write the documents' tables that are made from the code
	$(BIN)/python -m tests.docs

dashboards: $(READY)  ## write Grafana's dashboards, and Prometheus' rules as Kubernetes has them
	$(BIN)/python -m deploy.observability.grafana.build
	$(BIN)/python -m deploy.kubernetes.build

lock:  ## resolve the dependencies anew, without the names of registries
	$(PYTHON) -m venv .work/lock
	.work/lock/bin/pip install --quiet uv
	.work/lock/bin/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
	  --no-emit-find-links --no-header --group dev pyproject.toml --output-file requirements.lock
	.work/lock/bin/uv pip compile --quiet --python-version 3.13 --python-platform linux --generate-hashes --no-emit-index-url \
	  --no-emit-find-links --no-header --no-annotate --constraint requirements.lock --extra dns --extra kv-events --extra otel \
	  --extra postgres pyproject.toml --output-file deploy/container/runtime.lock
	printf '%s\n' hatchling mypy setuptools | .work/lock/bin/uv pip compile --quiet --python-version 3.13 --python-platform linux --generate-hashes \
	  --no-emit-index-url --no-emit-find-links --no-header --no-annotate --constraint requirements.lock \
	  - --output-file deploy/container/build.lock
	echo matplotlib | .work/lock/bin/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
	  --no-emit-index-url --no-emit-find-links --no-header --no-annotate --constraint requirements.lock \
	  - --output-file benchmarks/requirements-plots.txt

clean:
	rm -rf .venv .venv-vllm .work .mypy_cache .ruff_cache .pytest_cache .hypothesis
