#!/usr/bin/env bash
# Copyright The SmartNat Authors.
# SPDX-License-Identifier: Apache-2.0
#
# Runs tests and ends with one line that counts them:
#   test.sh all                everything; sets up what it needs. As root nothing may be skipped for want of something
#   test.sh unit [PACKAGE...]  all that needs neither root nor a control plane
#   test.sh golden             writes the golden files anew
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

say() { echo "test: $*"; }

# summarized COMMAND...: fails when the command fails, whatever its last line says.
summarized() {
	"$@" 2>&1 | "$tmp/testsum"
}

tmp="$(mktemp -d)"
trap 'rm -rf "$tmp"' EXIT
go build -o "$tmp/testsum" ./scripts/testsum

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
		say "not root: what needs root is skipped, and counted as skipped"
	fi
	race_detector

	say "1/4 the control plane that the lab runs"
	scripts/kube/build.sh >/dev/null
	say "2/4 packages: built, installed, upgraded and removed"
	scripts/packages/build.sh
	scripts/packages/test.sh
	# Tests run one package after the other, since many of them watch the clock on few cores; compiling need not.
	say "3/4 compiling (after $((SECONDS - started)) s)"
	go build "${race[@]}" ./...
	say "4/4 Go tests (after $((SECONDS - started)) s)"
	summarized go test "${race[@]}" -json -p 1 -count 1 -timeout 20m ./...
}

unit() {
	if (($# == 0)); then
		mapfile -t packages < <(go list ./... | grep -v -e /scripts/lab -e /scripts/bench/scale -e /scripts/chaos)
		set -- "${packages[@]}"
	fi
	summarized go test -json "$@"
}

# Packages with golden files say so by a flag -update in their tests.
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
golden) golden ;;
*)
	echo "usage: test.sh all | unit [PACKAGE...] | golden" >&2
	exit 2
	;;
esac
