#!/usr/bin/env bash
# Copyright The SmartNat Authors.
# SPDX-License-Identifier: Apache-2.0

# Builds the real control plane for the lab (etcd, kube-apiserver, kube-controller-manager, kube-proxy, kubectl) once from the
# modules in go.mod, into a cache outside the tree, and prints the directory. The script can be interrupted and run
# concurrently. `build.sh --where` only prints the directory.
set -euo pipefail
cd "$(dirname "$0")"

hash=$(cat go.mod go.sum | sha256sum | cut -c1-16)
dir=${XDG_CACHE_HOME:-$HOME/.cache}/smartnat/kube-$hash
if [ "${1:-}" = --where ]; then
	echo "$dir"
	exit
fi

version=$(awk '$1 == "k8s.io/kubernetes" { print $2; exit }' go.mod) # v1.37.2
minor=${version#v1.}
minor=${minor%%.*}
packages=(
	go.etcd.io/etcd/server/v3
	k8s.io/kubernetes/cmd/kubectl
	k8s.io/kubernetes/cmd/kube-proxy
	k8s.io/kubernetes/cmd/kube-controller-manager
	k8s.io/kubernetes/cmd/kube-apiserver
)

say() { echo "kube: $*" >&2; }

# program PACKAGE: prints the name of its program.
program() {
	case $1 in
	go.etcd.io/*) echo etcd ;;
	*) basename "$1" ;;
	esac
}

# compile PACKAGE FILE: builds a program under a temporary name and renames it when it is complete.
compile() {
	local flags="-s -w" prefix
	for prefix in k8s.io/component-base/version k8s.io/client-go/pkg/version; do
		flags+=" -X $prefix.gitVersion=$version -X $prefix.gitMajor=1 -X $prefix.gitMinor=$minor"
	done
	temporary=$dir/.$(basename "$2").$$
	# Use the same flags as for SmartNat's own programs, so that shared packages are compiled only once.
	CGO_ENABLED=0 go build -trimpath -ldflags "$flags" -o "$temporary" "$1"
	mv "$temporary" "$2"
}

mkdir -p "$dir"
exec 9>"$dir/.lock"
if ! flock -n 9; then
	say "another build is running, waiting for it"
	flock 9
fi
temporary=
trap '[ -z "$temporary" ] || rm -f "$temporary"' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
# We hold the lock, so unfinished files are leftovers of an earlier build.
find "$dir" -maxdepth 1 -type f -name '.*.*' -delete

missing=0
for package in "${packages[@]}"; do
	[ -x "$dir/$(program "$package")" ] || missing=$((missing + 1))
done
if [ "$missing" -gt 0 ]; then
	# The longest first run that was reported took 37 minutes on 2 cores.
	say "building the control plane $version into $dir (once; up to $((74 / $(nproc) + 1)) minutes on $(nproc) cores if Go's build cache is cold)"
	n=0
	for package in "${packages[@]}"; do
		n=$((n + 1))
		name=$(program "$package")
		[ ! -x "$dir/$name" ] || continue
		say "$n of ${#packages[@]}: $name ..."
		started=$SECONDS
		compile "$package" "$dir/$name"
		say "$n of ${#packages[@]}: $name built in $((SECONDS - started)) s"
	done
fi
echo "$dir"
