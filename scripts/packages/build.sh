#!/usr/bin/env bash
# Copyright The SmartNat Authors.
# SPDX-License-Identifier: Apache-2.0
#
# Builds the deb and the rpm: build.sh [ARCH...], by Go's names; amd64 and arm64 by default.
# Builds are reproducible. The environment may set VERSION, and DIST, the output folder.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

# A tag v1.2.3 is version 1.2.3; a later commit gets a version between it and the next one.
version() {
	local described
	if ! described="$(git describe --tags --long --match 'v[0-9]*' --dirty=.dirty 2>/dev/null)"; then
		if ! described="v0.0.0-$(git rev-list --count HEAD 2>/dev/null)-g$(git describe --always --dirty=.dirty)"; then
			described=v0.0.0-0-gunknown
		fi
	fi
	if [[ $described =~ ^v(.+)-([0-9]+)-(g[0-9a-z.]+)$ ]]; then
		case ${BASH_REMATCH[2]}${BASH_REMATCH[3]} in
		0g*.dirty | [1-9]*) echo "${BASH_REMATCH[1]}+${BASH_REMATCH[2]}.${BASH_REMATCH[3]}" ;;
		*) echo "${BASH_REMATCH[1]}" ;;
		esac
	fi
}

arches=("$@")
((${#arches[@]} > 0)) || arches=(amd64 arm64)
VERSION="${VERSION:-$(version)}"
dist="${DIST:-dist}"
SOURCE_DATE_EPOCH="${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct 2>/dev/null || echo 0)}"
export VERSION SOURCE_DATE_EPOCH
nfpm="$(scripts/tools/build.sh nfpm)/nfpm"

tmp="$(mktemp -d)"
trap 'rm -rf "$tmp"' EXIT
mkdir -p "$dist"
PAGES="$tmp/pages"
export PAGES
mkdir "$PAGES"
echo "packages: man pages and completions"
go run -trimpath -buildvcs=false -tags pages ./cmd/smartnatd pages systemd/smartnat.yaml "$PAGES"
gzip -9n "$PAGES"/*.[58]
# Links to files that are not in the packages lead to the repository, at this version.
DOCUMENTS="$tmp/documents"
export DOCUMENTS
mkdir -p "$DOCUMENTS/systemd"
ref=main
[[ ! $VERSION =~ ^[0-9.]+$ ]] || ref="v$VERSION"
for document in README.md systemd/README.md systemd/troubleshooting.md; do
	folder="${document%"${document##*/}"}"
	sed -E "s#\]\(([^)#:]+(\#[^)]*)?)\)#](https://github.com/smartnat/smartnat/blob/$ref/$folder\1)#g" "$document" >"$DOCUMENTS/$document"
done
for ARCH in "${arches[@]}"; do
	BIN="$tmp/$ARCH"
	export ARCH BIN
	echo "packages: smartnatd $VERSION for $ARCH"
	CGO_ENABLED=0 GOOS=linux GOARCH="$ARCH" go build -trimpath -buildvcs=false -ldflags "-s -w -buildid= -X main.version=$VERSION" -o "$BIN/smartnatd" ./cmd/smartnatd
	for packager in deb rpm; do
		"$nfpm" package --config scripts/packages/nfpm.yaml --packager "$packager" --target "$dist" >"$tmp/log" 2>&1 || {
			cat "$tmp/log" >&2
			exit 1
		}
		awk '/created package/ { print "packages:", $NF }' "$tmp/log"
	done
done
