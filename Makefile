# Copyright The SmartNat Authors.
# SPDX-License-Identifier: Apache-2.0

# Every target prints its steps. `make` alone lists the targets.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo development)
# Builds and packages carry the time of their commit, so that they are reproducible.
export SOURCE_DATE_EPOCH ?= $(shell git log -1 --format=%ct 2>/dev/null || echo 0)

PROGRAMS := $(notdir $(wildcard cmd/*))

.PHONY: help setup build demo lab check test test-unit test-packages test-boot test-kernels fuzz bench bench-go bench-datapath bench-failover bench-gateways bench-relay chaos soak verify lint update packages manifests release clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: ## install missing tools for building and testing (apt-get or dnf, as root)
	@scripts/setup.sh test

build: ## build the programs into bin/
	@mkdir -p bin
	@for program in $(PROGRAMS); do \
		echo "build: bin/$$program $(VERSION)"; \
		CGO_ENABLED=0 go build -trimpath -buildvcs=false -ldflags "-s -w -X main.version=$(VERSION)" -o "bin/$$program" "./cmd/$$program"; \
	done

demo: ## packets through a gateway within minutes, then the same in a real cluster; DEMO_EXIT=1 does not wait at the end
	@scripts/setup.sh demo
	@echo "demo 1/2: a gateway and objects in a file, without a cluster"
	@$(MAKE) build PROGRAMS=smartnatd
	@CGO_ENABLED=0 go build -trimpath -o bin/demo ./scripts/demo
	@bin/demo bin/smartnatd
	@echo "demo 2/2: a real control plane, smartnat-relay, two uplinks"
	@scripts/kube/build.sh >/dev/null
	@$(MAKE) build
	@CGO_ENABLED=0 go run -trimpath ./scripts/lab/cmd/lab demo

lab: ## start the lab of the tests, to look around in; Ctrl-C stops it
	@scripts/setup.sh demo
	@$(MAKE) build
	@scripts/kube/build.sh >/dev/null
	@go run ./scripts/lab/cmd/lab up

check: ## unit tests and lint, without root; run it after every change
	@scripts/test.sh check
	@scripts/verify.sh layout headers format words subjects lint

test: ## all tests: unit, real kernel, lab, packages (as root; installs what it needs)
	@scripts/test.sh all

test-unit: ## tests without a control plane, with the real kernel; one package: make test-unit PKG=./pkg/calc/...
	@scripts/test.sh unit $(PKG)

test-packages: packages ## install, upgrade and remove the packages in a temporary root
	@scripts/packages/test.sh

test-boot: packages ## boot a Debian with the packages and follow the README (as root, minutes)
	@scripts/setup.sh boot
	@scripts/packages/boot.sh

test-kernels: ## the tests with the kernel on Debian's kernels 6.1 and 6.12, emulated (Debian on amd64; an hour); KERNELS=6.12 SUITES=pkg/host
	@scripts/setup.sh kernels
	@KERNELS="$(KERNELS)" SUITES="$(SUITES)" FLAGS="$(FLAGS)" scripts/kernels/run.sh

fuzz: ## every fuzz target for FUZZTIME (30s); failing inputs are kept in testdata/fuzz of the package
	@scripts/fuzz.sh

bench: ## SmartNat, kube-proxy and iptables-restore from 10 to 100,000 ports (as root, 30 minutes); BENCH=-quick for fewer
	@scripts/setup.sh test
	@scripts/kube/build.sh >/dev/null
	@go run ./scripts/bench/scale $(BENCH)

bench-go: ## Go benchmarks with benchstat; BASE=HEAD~3 compares with a commit, PKG=./pkg/iptables/rules runs one package
	@scripts/bench/go.sh $(PKG)

bench-datapath: ## cost of a packet: through the gateway against plain routing (as root, 10 minutes); BENCH=-quick for fewer
	@scripts/setup.sh test
	@go run ./scripts/bench/datapath $(BENCH)

bench-failover: ## what clients see when a gateway of a pair fails (as root, 10 minutes); BENCH='-only "box dead" -advert 50ms', BENCH='-rounds 50'
	@scripts/setup.sh test
	@go run ./scripts/bench/failover $(BENCH)

bench-gateways: ## connections and throughput through 1, 2 and 4 gateways (as root, 2 minutes); BENCH='-benchtime 100x' for more turns
	@scripts/setup.sh test
	@go test -run '^$$' -bench 'BenchmarkGateways$$' -benchtime 20x -timeout 30m $(BENCH) ./pkg/dataplane

bench-relay: ## cost of the relay with 10,000 Services and 500 watchers (as root, 10 minutes); BENCH=-quick for fewer
	@scripts/setup.sh test
	@scripts/kube/build.sh >/dev/null
	@go run ./scripts/bench/relay $(BENCH)

chaos: ## inject faults under traffic for DURATION (5m), in an order given by SEED; other flags: CHAOS=-help (as root)
	@scripts/setup.sh test
	@scripts/kube/build.sh >/dev/null
	@go run ./scripts/chaos $(if $(SEED),-seed $(SEED)) -duration $(or $(DURATION),5m) $(CHAOS)

soak: ## change objects under traffic for DURATION (2h), and fail if anything grows (as root)
	@scripts/setup.sh test
	@scripts/kube/build.sh >/dev/null
	@go run ./scripts/chaos -soak $(if $(SEED),-seed $(SEED)) -duration $(or $(DURATION),2h) $(CHAOS)

verify: ## the checks of a reviewer: generated code, lint, known vulnerabilities, reproducible builds, ...
	@scripts/setup.sh test
	@scripts/verify.sh

lint: ## only golangci-lint
	@scripts/verify.sh lint

update: ## update generated files: deepcopy, CRD, clients, golden files
	@scripts/codegen/update.sh
	@scripts/test.sh golden

packages: ## build the deb and rpm for amd64 and arm64 into dist/
	@scripts/packages/build.sh

manifests: ## build install.yaml for a cluster into dist/, for IMAGE=NAME@sha256:DIGEST
	@scripts/manifests.sh "$(IMAGE)"

release: ## build all files of a release into dist/, with checksums and bills of materials (needs a clean tree and buildah)
	@env -u VERSION -u SOURCE_DATE_EPOCH scripts/release.sh

clean: ## remove bin/ and dist/ (tools and control plane stay cached outside the tree)
	@echo "clean: bin/ dist/"
	@rm -rf bin dist
