#!/usr/bin/env bash
# Copyright The SmartNat Authors.
# SPDX-License-Identifier: Apache-2.0
#
# Builds the image of the relay with docker, podman or buildah, the first that works here, or with ENGINE:
#   image.sh [NAME[:TAG]]       default smartnat-relay:VERSION; GOARCH=arm64 builds for another architecture
# VERSION and SOURCE_DATE_EPOCH default to those of the git commit. Push the image with the same program.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

say() { echo "image: $*" >&2; }

version=${VERSION:-$(git describe --tags --always --dirty 2>/dev/null || echo development)}
SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct 2>/dev/null || echo 0)}
export SOURCE_DATE_EPOCH
name=${1:-smartnat-relay:$version}
arch=${GOARCH:-$(go env GOARCH)}

engine=${ENGINE:-}
for candidate in docker podman buildah; do
	[[ -z $engine ]] || break
	! "$candidate" info >/dev/null 2>&1 || engine=$candidate
done
[[ -n $engine ]] || {
	say "none of docker, podman and buildah works here"
	exit 1
}

context=$(mktemp -d)
trap 'rm -rf "$context"' EXIT
say "building smartnat-relay $version for linux/$arch"
CGO_ENABLED=0 GOOS=linux GOARCH=$arch go build -trimpath -buildvcs=false -ldflags "-s -w -X main.version=$version" -o "$context/smartnat-relay" ./cmd/smartnat-relay
chmod 0755 "$context/smartnat-relay"

say "building $name with $engine"
options=(--tag "$name" --file relay/Dockerfile --platform "linux/$arch")
case $engine in
podman | buildah) options+=(--timestamp "$SOURCE_DATE_EPOCH") ;; # reproducible
esac
"$engine" build "${options[@]}" "$context" >&2
echo "$name"
