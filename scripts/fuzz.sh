#!/usr/bin/env bash
# Copyright The SmartNat Authors.
# SPDX-License-Identifier: Apache-2.0
#
# Runs each fuzz target of the module for FUZZTIME (default 30s), one after the other:
#   fuzz.sh [PACKAGE...]   only targets of these packages
# Go stores a failing input in testdata/fuzz of the package, where every later test run tries it again. Commit it together with
# the fix.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

fuzztime="${FUZZTIME:-30s}"

say() { echo "fuzz: $*"; }

# Build only test binaries with targets, to list these.
if (($# == 0)); then
	mapfile -t packages < <(grep -rl --include='*_test.go' '^func Fuzz' . | xargs -r -n1 dirname | sort -u)
	set -- "${packages[@]}"
fi
targets=()
for package in "$@"; do
	listed="$(go test -list '^Fuzz' "$package")" || {
		say "$listed"
		exit 1
	}
	for name in $(grep '^Fuzz' <<<"$listed" || true); do
		targets+=("$package $name")
	done
done
if ((${#targets[@]} == 0)); then
	say "no targets" >&2
	exit 1
fi

say "${#targets[@]} targets for $fuzztime each"
log="$(mktemp)"
trap 'rm -f "$log"' EXIT
failed=() n=0
for target in "${targets[@]}"; do
	n=$((n + 1)) started=$SECONDS
	read -r package name <<<"$target"
	# Limit the time to minimize a new input: Go's default of a minute would use up the fuzz time.
	if go test -run '^$' -fuzz "^$name\$" -fuzztime "$fuzztime" -fuzzminimizetime 2s "$package" >"$log" 2>&1; then
		last="$(grep '^fuzz: elapsed' "$log" | tail -n 1)"
		say "[$n/${#targets[@]}] $package $name: ${last#fuzz: } ($((SECONDS - started)) s)"
		continue
	fi
	failed+=("$package $name")
	say "[$n/${#targets[@]}] $package $name FAILED after $((SECONDS - started)) s:"
	sed 's/^/    /' "$log"
	kept="$(sed -n 's/^ *Failing input written to //p' "$log" | head -n 1)"
	if [[ -n $kept ]]; then
		say "input: $package/$kept; to repeat: go test -run '$name/$(basename "$kept")' $package"
	else
		say "no input: the target fails without fuzzing, or the fuzz engine failed"
	fi
done
if ((${#failed[@]} > 0)); then
	say "${#failed[@]} of ${#targets[@]} failed: ${failed[*]}" >&2
	exit 1
fi
say "${#targets[@]} targets, no crasher"
