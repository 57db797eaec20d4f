# One command each to set up and test, to see it work, and to measure it. All make what they need first:
# a virtual environment in .venv, and as root on Debian the servers that the tests run against.
#
#   make test PYTEST='-k resume -x'      make bench BENCH='--origins s3 --tools loom;aria2'
#   make swarm SWARM='--scenario cold16 --size 100MB'

VENV := .venv
PEERS := .venv-bench
BIN := $(VENV)/bin
SERVERS := nginx libnginx-mod-http-lua openssl iproute2
TESTED := redis-server chromium prometheus
TOOLS := curl aria2 axel lftp
PYTEST :=
SUITES := trixie sid
AT_ONCE := 3
BENCH :=
SWARM :=
SIMULATED :=

.DEFAULT_GOAL := help
.PHONY: help test pythons booted lint format demo bench bench-quick swarm simulated docs servers tested tools clean

help: ## Show the targets
	@sed -n 's/^\([a-z-]*\):.*## /  make \1\t/p' $(MAKEFILE_LIST) | expand -t 22

test: tested lint ## Lint and run all tests
	$(BIN)/pytest --verbosity=0 -rs $(if $(CI),--durations=25) -n $(AT_ONCE) --dist loadfile $(PYTEST)

booted: ## As root on Debian: test the settings of hardened units in a booted systemd, about 4 minutes
	scripts/booted

pythons: tested $(VENV)/.ready ## As root on Debian: run all tests with Python 3.11, 3.13 and 3.14, about 20 minutes
	@code=0; $(BIN)/pytest --verbosity=0 -n $(AT_ONCE) --dist loadfile $(PYTEST) >.pythons.log 2>&1 || code=1; \
	echo "$$($(BIN)/python -V) (this machine): $$(tail -n 1 .pythons.log)   .pythons.log"; \
	scripts/pythons test $(SUITES) -- -n $(AT_ONCE) --dist loadfile $(PYTEST) || code=1; exit $$code

lint: $(VENV)/.ready ## Check style, types and which way imports point
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/mypy bench
	$(BIN)/lint-imports --no-logo
	$(BIN)/python scripts/house.py

format: $(VENV)/.ready ## Rewrite the code in the project's format
	$(BIN)/ruff format
	$(BIN)/ruff check --fix

demo: servers $(VENV)/.ready ## Watch a fetch, a resume after kill -9, a cache hit, and two nodes that share
	$(BIN)/python -m bench.demo

bench: $(if $(QUICK),bench-quick,bench-full) ## Compare with other tools, about 20 minutes; results in docs/benchmarks

.PHONY: bench-full
bench-full: tools tested $(VENV)/.ready $(PEERS)/.ready
	$(BIN)/python -m bench --report docs/benchmarks $(BENCH)
	$(BIN)/python -m bench.hits --report docs/benchmarks
	$(BIN)/python -m bench.control --report docs/benchmarks

bench-quick: tools $(VENV)/.ready $(PEERS)/.ready ## The same with a small file: shows that it works, gives no figures
	$(BIN)/python -m bench --quick $(BENCH)

swarm: servers $(VENV)/.ready ## As root: 16 and 32 nodes start cold together, each on its own slow link, about 15 minutes
	$(BIN)/python -m bench.swarm --report docs/benchmarks $(SWARM)

simulated: $(VENV)/.ready ## Cold starts of 32 to 1000 nodes in virtual time, with the policy of a real fetch, about 10 minutes
	$(BIN)/python -m bench.simulated --nodes 32,60,100,300,1000 --report docs/benchmarks $(SIMULATED)

docs: $(VENV)/.ready ## Write the pages that are generated from the code
	$(BIN)/python -m loom.cli.document docs

clean: ## Remove everything that make has made
	rm -rf $(VENV) $(PEERS) .pythons.log .*_cache .hypothesis .demo build dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

servers:
	@scripts/setup debian $(SERVERS)

tested:
	@scripts/setup debian $(SERVERS) $(TESTED)

tools:
	@scripts/setup debian $(SERVERS) $(TOOLS)

$(VENV)/.ready: pyproject.toml constraints.txt scripts/setup
	scripts/setup venv $(VENV) --group dev --editable '.[control,redis]'
	@touch $@

$(PEERS)/.ready: pyproject.toml constraints.txt scripts/setup
	scripts/setup venv $(PEERS) --group bench || echo "some peers cannot be installed: the table says which" >&2
	@touch $@
