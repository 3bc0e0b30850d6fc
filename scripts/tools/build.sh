#!/usr/bin/env bash
# Copyright The SmartNat Authors.
# SPDX-License-Identifier: Apache-2.0
#
# Builds the tools of one module of scripts/tools and prints the directory with the programs:
#   build.sh              generators (scripts/tools/go.mod)
#   build.sh lint         golangci-lint
#   build.sh nfpm         nfpm
#   build.sh cyclonedx    cyclonedx-gomod
#   build.sh benchstat    benchstat
#   build.sh govulncheck  govulncheck
#   build.sh helm         a renderer of charts
# It builds them once for each state of the module, outside the tree. Standard output is only the path.
set -euo pipefail

here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
name="${1:-generators}"
module="$here/$name"
if [[ $name == generators ]]; then
	module="$here"
fi
if [[ ! -f $module/go.mod ]]; then
	echo "scripts/tools/build.sh: no tools named '$name': $module/go.mod does not exist" >&2
	exit 2
fi

key="$({ cat "$module/go.mod" "$module/go.sum" "$module"/*.go 2>/dev/null; go env GOVERSION GOOS GOARCH; } | sha256sum | cut -c1-16)"
cache="${XDG_CACHE_HOME:-$HOME/.cache}/smartnat/tools"
bin="$cache/$name-$key"
if [[ ! -d $bin ]]; then
	echo "building tools: $name (once; takes minutes if Go's build cache is cold)" >&2
	mkdir -p "$cache"
	# Build in a temporary directory and rename it, so that concurrent builds never see incomplete output.
	aside="$(mktemp -d "$cache/.$name.XXXXXX")"
	trap 'rm -rf "$aside"' EXIT
	CGO_ENABLED=0 go build -C "$module" -trimpath -o "$aside/" tool >&2
	chmod 755 "$aside"
	mv -T "$aside" "$bin" 2>/dev/null || [[ -d $bin ]]
fi
echo "$bin"
