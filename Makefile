# What a developer runs. `make` alone lists it; the work is done by .ci/*.sh and tox.ini.
#
# PYTHON=python3.12        the Python for .venv (default: the first of 3.11 or later that has venv)
# PORT=, MANAGEMENT_PORT=  where `make serve` and `make demo` listen (default 8000 and 9000; 0: any free port)
# BASE=main                what `make bench-compare` compares with: a git ref, a tree, or a file of counts
# ARGS=                    handed to tox or pytest: make test ARGS='-e oldest', make unit ARGS='-k framing'

SHELL := /bin/bash
PORT ?= 8000
MANAGEMENT_PORT ?= 9000
BASE ?= main
SETUP := PYTHON='$(PYTHON)' bash .ci/setup.sh
TOX := .venv/bin/tox run

.PHONY: help serve demo test unit conformance repeat lint format tidy bench bench-compare bench-peers soak sanitize fuzz clean

help: ## list the commands
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/\1\t\2/p' Makefile | expand -t 15 | sed 's/^/  make /'

serve: ## set up, start examples/basic, ask it something, leave it running (Ctrl-C stops it)
	@$(SETUP) native anyserve
	@bash .ci/serve.sh serve $(PORT) $(MANAGEMENT_PORT)

demo: ## the same, but stop at the end
	@$(SETUP) native anyserve
	@bash .ci/serve.sh demo $(PORT) $(MANAGEMENT_PORT)

test: ## set up and run everything that CI runs, through tox
	@$(SETUP) native tox tools
	$(TOX) $(ARGS)

unit: ## run only the fast tests, tests/unit
	@$(SETUP) native tox
	$(TOX) -e newest -- tests/unit $(ARGS)

conformance: ## run the conformance suite on both agents and the Python worker; reports in build/conformance
	@$(SETUP) native tox
	CONFORMANCE_REPORTS=build/conformance $(TOX) -e conformance -- $(ARGS)
	@echo "reports: build/conformance/*/report.html"

repeat: ## run the conformance suite 20 times and compare the verdicts; ARGS='--load --patience 4'
	@$(SETUP) tox
	$(TOX) -e repeat -- $(ARGS)

lint: ## check style and types
	@$(SETUP) tox
	$(TOX) -e lint

format: ## rewrite the sources in the project's style
	@$(SETUP) tox
	$(TOX) -q -e format

tidy: ## clang-tidy on the native agent, some minutes; ARGS='native/src/registry.cpp' for some of it
	@$(SETUP) native tox
	$(TOX) -e tidy -- $(ARGS)

bench: ## measure both agents and the Python worker beside other servers; tables and plots in build/benchmarks
	@$(SETUP) native tox tools
	$(TOX) -e bench -- $(ARGS)

bench-peers: ## measure anyserve beside other servers, which it installs into build/peers; tables in build/benchmarks
	@$(SETUP) native tox tools
	$(TOX) -e bench-peers -- $(ARGS)

bench-compare: ## have the pure parts become slower than at BASE (main)? Instruction counts; ARGS='--limit 5'
	@$(SETUP) native tox tools
	$(TOX) -e bench-compare -- $(BASE) $(ARGS)

soak: ## a million requests with reconnects, cancellations and dying workers: does memory stay flat?
	@$(SETUP) native tox tools
	$(TOX) -e soak -- $(ARGS)

sanitize: ## all C++ tests and the conformance suite under ASan+UBSan and TSan (make test: a part of it)
	@$(SETUP) native tox tools
	SANITIZERS='asan tsan' $(TOX) -e native -- tests/native/test_cpp.py tests/native/test_sanitized.py $(ARGS)

fuzz: ## run each fuzzer for FUZZ_SECONDS (default 600); what it finds stays in build/corpus
	@$(SETUP) native tox tools
	FUZZ_SECONDS=$${FUZZ_SECONDS:-600} $(TOX) -e native -- tests/native/test_fuzz.py $(ARGS)

clean: ## remove environments, builds and caches
	rm -rf .venv .tox build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .benchmarks
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
