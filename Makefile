# Copyright The SmartNat Authors.
# SPDX-License-Identifier: Apache-2.0

# Every target says what it does while it does it. `make` alone lists them.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo development)
# No newer commit, no newer build: what is packaged carries the time of the commit that it was made from.
export SOURCE_DATE_EPOCH ?= $(shell git log -1 --format=%ct 2>/dev/null || echo 0)

PROGRAMS := $(notdir $(wildcard cmd/*))

.PHONY: help setup build demo lab check test test-unit test-packages test-boot fuzz bench bench-go bench-datapath bench-relay chaos soak verify lint update packages clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: ## install what building and testing need and this machine lacks (apt-get or dnf, as root)
	@scripts/setup.sh test

build: ## build the programs into bin/
	@mkdir -p bin
	@for program in $(PROGRAMS); do \
		echo "build: bin/$$program $(VERSION)"; \
		CGO_ENABLED=0 go build -trimpath -buildvcs=false -ldflags "-s -w -X main.version=$(VERSION)" -o "bin/$$program" "./cmd/$$program"; \
	done

demo: ## packets through a gateway within minutes, then the same in a real cluster; DEMO_EXIT=1 ends at once
	@scripts/setup.sh demo
	@echo "demo 1/2: a gateway and objects in a file, without a cluster"
	@$(MAKE) build PROGRAMS=smartnatd
	@CGO_ENABLED=0 go build -trimpath -o bin/demo ./scripts/demo
	@bin/demo bin/smartnatd
	@echo "demo 2/2: a real control plane, smartnat-relay, two uplinks"
	@scripts/kube/build.sh >/dev/null
	@$(MAKE) build
	@CGO_ENABLED=0 go run -trimpath ./scripts/lab/cmd/lab demo

lab: ## bring the lab of the tests up, to walk around in; Ctrl-C takes it down
	@scripts/setup.sh demo
	@$(MAKE) build
	@scripts/kube/build.sh >/dev/null
	@go run ./scripts/lab/cmd/lab up

check: ## what to run after every change: unit tests and lint, without root or a kernel of their own
	@scripts/test.sh check
	@scripts/verify.sh layout headers format words lint

test: ## everything that proves SmartNat: unit, real kernel, lab, packages (as root; sets up what it needs)
	@scripts/test.sh all

test-unit: ## tests that need no control plane, with the real kernel; any package: make test-unit PKG=./pkg/calc/...
	@scripts/test.sh unit $(PKG)

test-packages: packages ## install, upgrade and remove the packages in a root of their own
	@scripts/packages/test.sh

test-boot: packages ## boot a Debian with the deb and do what the README says (debootstrap, systemd-nspawn, root)
	@scripts/packages/boot.sh

fuzz: ## every fuzz target for FUZZTIME (30s) each; what fails is kept in testdata/fuzz of its package
	@scripts/fuzz.sh

bench: ## SmartNat, kube-proxy and iptables-restore from 10 to 100,000 ports (as root, 30 minutes); BENCH=-quick for a few
	@scripts/setup.sh test
	@scripts/kube/build.sh >/dev/null
	@go run ./scripts/bench/scale $(BENCH)

bench-go: ## Go benchmarks with benchstat; BASE=HEAD~3 compares with a commit, PKG=./pkg/rules is one package
	@scripts/bench/go.sh $(PKG)

bench-datapath: ## what a packet pays: through the gateway against plain routing (as root, 10 minutes); BENCH=-quick for one
	@scripts/setup.sh test
	@go run ./scripts/bench/datapath $(BENCH)

bench-relay: ## what the relay costs in a cluster of 10,000 Services, with 500 watchers (as root, 10 minutes); BENCH=-quick for a try
	@scripts/setup.sh test
	@scripts/kube/build.sh >/dev/null
	@go run ./scripts/bench/relay $(BENCH)

chaos: ## break things under traffic for DURATION (5m), in the order that SEED stands for; all else: CHAOS=-help (as root)
	@scripts/setup.sh test
	@scripts/kube/build.sh >/dev/null
	@go run ./scripts/chaos $(if $(SEED),-seed $(SEED)) -duration $(or $(DURATION),5m) $(CHAOS)

soak: ## change things under traffic for DURATION (2h): does anything grow? (as root)
	@scripts/setup.sh test
	@scripts/kube/build.sh >/dev/null
	@go run ./scripts/chaos -soak $(if $(SEED),-seed $(SEED)) -duration $(or $(DURATION),2h) $(CHAOS)

verify: ## what a reviewer would check: generated code, lint, known vulnerabilities, that two builds are the same, ...
	@scripts/setup.sh test
	@scripts/verify.sh

lint: ## golangci-lint alone
	@scripts/verify.sh lint

update: ## update what is generated: deepcopy, CRD, clients, golden files
	@scripts/codegen/update.sh
	@scripts/test.sh golden

packages: ## deb and rpm for amd64 and arm64 into dist/
	@scripts/packages/build.sh

clean: ## remove what was built here (tools and control plane stay cached outside the tree)
	@echo "clean: bin/ dist/"
	@rm -rf bin dist
