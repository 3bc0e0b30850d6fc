#!/usr/bin/env bash
# Copyright The SmartNat Authors.
# SPDX-License-Identifier: Apache-2.0
#
# Runs the Go benchmarks of the module and shows the results with benchstat:
#   go.sh [PACKAGE...]          benchmarks these packages, or all with benchmarks by default
#   BASE=HEAD~3 go.sh [...]     compares that commit with the work tree, both measured now, in turns
# COUNT (6) is the number of runs, BENCHTIME (0.3s) the duration of each, and BENCH (.) selects benchmarks. Results are in
# scripts/bench/results/go*.txt.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

count="${COUNT:-6}" benchtime="${BENCHTIME:-0.3s}" bench="${BENCH:-.}"
results="$PWD/scripts/bench/results"

say() { echo "bench-go: $*"; }

if (($# == 0)); then
	mapfile -t packages < <(grep -rl --include='*_test.go' '^func Benchmark' . | xargs -r -n1 dirname | sort -u)
	set -- "${packages[@]}"
fi
mkdir -p "$results"
benchstat="$(scripts/tools/build.sh benchstat)/benchstat"
tmp="$(mktemp -d)"
trap 'rm -rf "$tmp"' EXIT

# compile TREE NAME PACKAGE...: compiles a binary for each package, so that compiling does not disturb the measurements.
compile() {
	local tree="$1" name="$2" package
	mkdir -p "$tmp/$name"
	for package in "${@:3}"; do
		[[ -d $tree/$package ]] || continue # missing in that commit
		say "compiling $package of $name"
		go -C "$tree" test -c -o "$tmp/$name/$(tr / _ <<<"$package").test" "$package"
	done
}

# once TREE NAME PACKAGE: runs a package's benchmarks once, in its directory.
once() {
	local binary
	binary="$tmp/$2/$(tr / _ <<<"$3").test"
	[[ -x $binary ]] || return 0
	(cd "$1/$3" && "$binary" -test.run '^$' -test.bench "$bench" -test.benchmem -test.benchtime "$benchtime") >>"$results/go$4.txt"
}

rm -f "$results"/go.txt "$results"/go-base.txt
compile "$PWD" now "$@"
if [[ -n ${BASE:-} ]]; then
	mkdir "$tmp/tree"
	git archive "$BASE" | tar -x -C "$tmp/tree"
	compile "$tmp/tree" base "$@"
fi
for ((n = 1; n <= count; n++)); do
	for package in "$@"; do
		say "[$n/$count] $package"
		[[ -z ${BASE:-} ]] || once "$tmp/tree" base "$package" -base
		once "$PWD" now "$package" ''
	done
done
files=("now=$results/go.txt")
[[ -z ${BASE:-} ]] || files=("$BASE=$results/go-base.txt" "${files[@]}")
"$benchstat" "${files[@]}"
