#!/usr/bin/env bash
# Copyright The SmartNat Authors.
# SPDX-License-Identifier: Apache-2.0
#
# Runs every fuzz target of the module for FUZZTIME (default 30s) each, one after the other:
#   fuzz.sh [PACKAGE...]   those of the packages; of all when none is named
# Go keeps an input that fails in testdata/fuzz of the package, where every later test run tries it again. It belongs into
# the same commit as what puts it right.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

fuzztime="${FUZZTIME:-30s}"

say() { echo "fuzz: $*"; }

# Only test binaries that have targets are built and asked for them.
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
	say "there are no targets" >&2
	exit 1
fi

say "${#targets[@]} targets for $fuzztime each"
log="$(mktemp)"
trap 'rm -f "$log"' EXIT
failed=() n=0
for target in "${targets[@]}"; do
	n=$((n + 1)) started=$SECONDS
	read -r package name <<<"$target"
	# What is new is made smaller before it is used; a minute for each, as Go has it, would be all of the time there is.
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
		say "the input is kept in $package/$kept; again: go test -run '$name/$(basename "$kept")' $package"
	else
		say "no input was kept: the target fails without fuzzing, or the engine did"
	fi
done
if ((${#failed[@]} > 0)); then
	say "${#failed[@]} of ${#targets[@]} failed: ${failed[*]}" >&2
	exit 1
fi
say "${#targets[@]} targets, no crasher"
