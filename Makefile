# The front door. `make test` and `make demo` set everything up themselves on a bare Debian 12, as root.
.DEFAULT_GOAL := help
BAZEL := bazel
TIER ?= all
BENCH ?= all
SOAK ?= 3600

.PHONY: help setup build programs install test soak demo bench check lab-up lab-kubernetes lab-down clean

help: ## this list
	@awk -F':.*## ' -v suites="$$(bench/run --list | paste -sd'|')" \
	  '/^[a-z-]+:.*## /{sub("SUITES", suites); printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: ## install what is missing (apt, Go)
	@tools/setup

build: setup ## build every program
	@tools/build

programs: setup # without the tests: what the demo and a lab need
	@tools/build //node-agent:heterod //node-agent/cri:heterocri //cni:heterok8s-cni //heteroctl

install: ## put what is built in its place, by rename (DESTDIR=, PREFIX=/usr; WHAT=heterosock for hetero-socket alone)
	@DESTDIR='$(DESTDIR)' PREFIX='$(PREFIX)' tools/install $(WHAT)

test: build ## run all tests, cheapest first (TIER=unit|netns|lab|sanitize|all)
	@e2e/run $(TIER)

demo: programs ## run a split Pod on real containers and show it (POD=file.yaml for your own)
	@deploy/demo/run $(if $(POD),--pod '$(POD)')

soak: build ## run the random and the long tests, for hours: SOAK=3600 scales most of them
	@e2e/soak $(SOAK)

bench: build ## measure beside a baseline (BENCH=SUITES|all)
	@bench/run $(BENCH)

check: setup ## formatting, lints, duplicate fault points, dead links
	@tools/check

lab-up: programs ## make one heterogeneous computer on this machine
	@deploy/images/build
	@bazel-bin/heteroctl/heteroctl lab up

lab-kubernetes: programs ## the same with a real Kubernetes of two such Nodes
	@deploy/images/build
	@deploy/kubernetes/build
	@bazel-bin/heteroctl/heteroctl lab up --kubernetes

lab-down: ## remove it
	@bazel-bin/heteroctl/heteroctl lab down

clean: ## remove build results
	@$(BAZEL) clean; rm -rf .build
