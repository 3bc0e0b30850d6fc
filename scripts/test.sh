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
		--jsonfile-timing-events "$(mktemp "$tmp/times.XXXXXX")" "${summary[@]}" -- "$@"
}

# slowest names the slowest of all tests that ran.
slowest() {
	say "slower than 5 s:"
	cat "$tmp"/times.* >"$tmp/times"
	"$(scripts/tools/build.sh gotestsum)/gotestsum" tool slowest --jsonfile "$tmp/times" --threshold 5s
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

	say "1/5 the control plane of the lab, and the renderer of charts"
	scripts/kube/build.sh >/dev/null
	scripts/tools/build.sh helm >/dev/null
	say "2/5 packages: built, installed, upgraded and removed"
	scripts/packages/build.sh
	scripts/packages/test.sh
	say "3/5 compiling (after $((SECONDS - started)) s)"
	go build "${race[@]}" ./...
	# The race detector makes a test two to five times slower: spend that only where it can find a race.
	local failed=0 concurrent sequential
	mapfile -t concurrent < <(without_lab | concurrent)
	mapfile -t sequential < <(without_lab | grep -vxFf <(printf '%s\n' "${concurrent[@]}"))
	say "4/5 Go tests without a lab (after $((SECONDS - started)) s)"
	tests "${race[@]}" -p 2 -count 1 -timeout 20m "${concurrent[@]}" || failed=1
	say "${#sequential[@]} packages without concurrency, and without the race detector"
	tests -p 2 -count 1 -timeout 20m "${sequential[@]}" || failed=1
	say "5/5 Go tests with a lab (after $((SECONDS - started)) s)"
	local arguments running=0
	while read -ra arguments; do
		((running < 2)) || { wait -n || failed=1; }
		((running == 2)) || ((running += 1))
		tests "${race[@]}" -count 1 -timeout 20m "${arguments[@]}" &
	done < <(with_lab)
	for ((; running > 0; running--)); do wait -n || failed=1; done
	slowest
	return "$failed"
}

# without_lab prints the packages whose tests run no lab.
without_lab() { go list ./... | grep -v -f <(labs); }

# with_lab prints the arguments of the other tests, of which each has a lab of its own that mostly waits: two run at a time. The
# longest come first, and the longest package comes in two parts, of which one skips what the other runs.
with_lab() {
	local planes='^Test(IPTablesLegacy|IPTablesNFT|NFTables)$'
	printf '%s ./scripts/lab/e2e\n' "-run $planes" "-skip $planes"
	echo ./scripts/lab/worlds
	go list ./... | grep -f <(labs) | grep -v '/lab/\(e2e\|worlds\)$'
}
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
	slowest
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
