#!/usr/bin/env bash
# Copyright The SmartNat Authors.
# SPDX-License-Identifier: Apache-2.0
#
# Runs tests, counts them and names the slowest:
#   test.sh all                all tests; installs what they need. As root, a test without its requirements fails
#   test.sh unit [PACKAGE...]  tests without a control plane, with the real kernel if namespaces are available
#   test.sh check              the same without the kernel, for every change
#   test.sh golden             updates the golden files
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

say() { echo "test: $*"; }

tmp="$(mktemp -d)"
trap 'rm -rf "$tmp"' EXIT

summary=()
# tests FLAG|PACKAGE...: runs go test, and prints a line per package, the output of failures, the reason of each skip and a count.
tests() {
	local bin
	bin="$(scripts/tools/build.sh gotestsum)"
	"$bin/gotestsum" --format pkgname-and-test-fails --format-icons text --format-hide-empty-pkg \
		--jsonfile-timing-events "$tmp/times" "${summary[@]}" -- "$@" || return
	say "slower than 5 s:"
	"$bin/gotestsum" tool slowest --jsonfile "$tmp/times" --threshold 5s
}

race=()
race_detector() {
	if [[ $(go env CGO_ENABLED) == 1 ]] && command -v "$(go env CC)" >/dev/null; then
		race=(-race)
		say "with the race detector"
	else
		say "without the race detector: it needs cgo and a C compiler"
	fi
}

all() {
	local started=$SECONDS
	scripts/setup.sh test
	if ((EUID == 0)); then
		export SMARTNAT_REQUIRE_ALL=1
	else
		say "not root: tests that need root are counted as skipped"
	fi
	race_detector

	say "1/5 the control plane of the lab"
	scripts/kube/build.sh >/dev/null
	say "2/5 packages: built, installed, upgraded and removed"
	scripts/packages/build.sh
	scripts/packages/test.sh
	say "3/5 compiling (after $((SECONDS - started)) s)"
	go build "${race[@]}" ./...
	# The race detector makes a test two to five times slower: spend that only where it can find a race. Tests with a lab depend on
	# time, and each uses all cores: run them one after the other.
	local failed=0 concurrent sequential
	mapfile -t concurrent < <(without_lab | concurrent)
	mapfile -t sequential < <(without_lab | grep -vxFf <(printf '%s\n' "${concurrent[@]}"))
	say "4/5 Go tests without a lab (after $((SECONDS - started)) s)"
	tests "${race[@]}" -p 2 -count 1 -timeout 20m "${concurrent[@]}" || failed=1
	say "${#sequential[@]} packages without concurrency, and without the race detector"
	tests -p 2 -count 1 -timeout 20m "${sequential[@]}" || failed=1
	mapfile -t packages < <(with_lab)
	say "5/5 Go tests with a lab (after $((SECONDS - started)) s)"
	tests "${race[@]}" -p 1 -count 1 -timeout 20m "${packages[@]}" || failed=1
	return "$failed"
}

# without_lab prints the packages whose tests run no lab, and with_lab the others.
without_lab() { go list ./... | grep -v -f <(labs); }
with_lab() { go list ./... | grep -f <(labs); }
labs() { printf '%s\n' /scripts/lab /scripts/bench/scale /scripts/bench/relay /scripts/chaos /scripts/demo; }

# concurrent filters the packages that use concurrency themselves or in their tests.
concurrent() {
	local package dir
	xargs go list -f '{{.ImportPath}} {{.Dir}}' | while read -r package dir; do
		if grep -qE '"sync|golang.org/x/sync|<-|\bgo func|^\s*go [a-zA-Z_.]+\(|\.Go\(|t\.Parallel\(' "$dir"/*.go; then echo "$package"; fi
	done
}

unit() {
	(($# > 0)) || mapfile -t packages < <(without_lab)
	tests "${@:-${packages[@]}}"
}

check() {
	mapfile -t packages < <(without_lab)
	say "tests with the kernel are counted as skipped"
	summary=(--hide-summary skipped)
	SMARTNAT_REQUIRE_ALL='' tests -short "${packages[@]}"
}

# A package with golden files has a flag -update in its tests.
golden() {
	local packages
	mapfile -t packages < <(git grep -l 'flag.Bool("update"' -- '*_test.go' | xargs -r -n1 dirname | sort -u)
	for package in "${packages[@]}"; do
		say "golden files of ./$package"
		SMARTNAT_REQUIRE_ALL='' go test "./$package" -count 1 -update
	done
}

case ${1:-} in
all) all ;;
unit) unit "${@:2}" ;;
check) check ;;
golden) golden ;;
*)
	echo "usage: test.sh all | unit [PACKAGE...] | check | golden" >&2
	exit 2
	;;
esac
