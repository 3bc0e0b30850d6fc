#!/usr/bin/env bash
# Copyright The SmartNat Authors.
# SPDX-License-Identifier: Apache-2.0
#
# Runs the tests that need a kernel on Debian's kernels, emulated by qemu:
#   run.sh           boots, tests, prints a table, and fails if a test fails or a suite does not come to its end
#   run.sh suites    lists the suites
# From the environment, each separated by spaces:
#   KERNELS   series of Debian's kernels (6.1 6.12)
#   SUITES    packages (all of the list)
#   FLAGS     flags for the tests, like -test.run=TestConformance
# The whole output stays in ~/.cache/smartnat/kernels/logs.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

# The only limit of time: a machine that prints no line for so many seconds hangs.
silence=900

# Packages whose tests run in namespaces of their own. Other labs need a control plane, and the tests of programs a compiler or an hour.
suites() {
	grep -rlE --include='*_test.go' 'testenv\.Main\(' pkg | xargs -n 1 dirname | sort -u
	echo scripts/lab/worlds
}

# boot FOLDER LOG: runs all suites on the kernel in the folder, and writes what they print to the log. If the machine does not come to its
# end, the last line says why.
boot() {
	local folder="$1" log="$2" version="${1##*/}" line problem='the machine ended too early'
	cat "$tmp/root.cpio" "$folder/modules.cpio" >"$tmp/initramfs"
	: >"$log"
	# no_timer_check: on a busy machine, the emulated timer can be too late for the kernel's check, which panics.
	coproc machine {
		exec qemu-system-x86_64 -accel tcg,thread=multi -cpu max -smp 2 -m 3G -nodefaults -no-user-config -no-reboot -display none \
			-kernel "$folder/vmlinuz" -initrd "$tmp/initramfs" -append 'console=ttyS0 panic=-1 mitigations=off no_timer_check rdinit=/init' \
			-serial "file:$log.console" -serial stdio 2>&1
	}
	# shellcheck disable=SC2154 # coproc sets it
	pid=$machine_PID
	exec 3<&"${machine[0]}"
	while true; do
		IFS= read -r -t "$silence" line <&3 || {
			(($? <= 128)) || problem="the machine printed no line for $silence s"
			break
		}
		printf '%s\n' "${line%$'\r'}" >>"$log"
		case $line in
		"@kernel $version") say "$version runs" ;;
		@kernel*)
			problem="this is another kernel, ${line#@kernel }"
			break
			;;
		@suite*) say "$version: ${line#@suite }" ;;
		'--- FAIL'*) say "$version: $line" ;;
		@done)
			problem=''
			break
			;;
		esac
	done
	kill "$pid" 2>/dev/null || true
	wait "$pid" 2>/dev/null || true
	pid=''
	exec 3<&-
	[[ -n $problem ]] || return 0
	echo "@broken $problem" >>"$log"
	say "$version: $problem; the last lines of its console:"
	tail -n 20 "$log.console" || true
}

say() { echo "kernels: $* (after $SECONDS s)"; }

main() {
	local kernels suites folders=() logs=() kernel folder dir
	read -ra kernels <<<"${KERNELS:-6.1 6.12}"
	read -ra suites <<<"${SUITES:-$(suites | tr '\n' ' ')}"
	tmp="$(mktemp -d)"
	pid=''
	trap '[[ -z $pid ]] || kill "$pid" 2>/dev/null || true; rm -rf "$tmp"' EXIT
	dir="${XDG_CACHE_HOME:-$HOME/.cache}/smartnat/kernels/logs"
	mkdir -p "$dir"
	for kernel in "${kernels[@]}"; do
		folder="$(scripts/kernels/image.sh kernel "$kernel")"
		folders+=("$folder")
		logs+=("$dir/${folder##*/}.log")
	done
	scripts/kernels/image.sh root "$tmp/root.cpio" "${suites[@]}"
	for folder in "${folders[@]}"; do
		boot "$folder" "$dir/${folder##*/}.log"
	done
	awk -v "suites=${suites[*]}" -f scripts/kernels/table.awk "${logs[@]}"
}

case ${1:-} in
'') main ;;
suites) suites ;;
*)
	echo "usage: run.sh [suites]" >&2
	exit 2
	;;
esac
