#!/usr/bin/env bash
# Copyright The SmartNat Authors.
# SPDX-License-Identifier: Apache-2.0
#
# Builds the image of the relay, or of smartnatd for nodes with PROGRAM=smartnatd, with docker, podman or buildah, the first that works
# here, or with ENGINE:
#   image.sh [NAME[:TAG]]       default PROGRAM:VERSION; GOARCH=arm64 builds for another architecture
# VERSION and SOURCE_DATE_EPOCH default to those of the git commit. Push the image with the same program.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

say() { echo "image: $*" >&2; }

version=${VERSION:-$(git describe --tags --always --dirty 2>/dev/null || echo development)}
SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct 2>/dev/null || echo 0)}
export SOURCE_DATE_EPOCH
program=${PROGRAM:-smartnat-relay}
case $program in
smartnat-relay) file=relay/Dockerfile ;;
smartnatd) file=cmd/smartnatd/Dockerfile ;;
*)
	say "PROGRAM is '$program', not smartnat-relay or smartnatd"
	exit 2
	;;
esac
name=${1:-$program:$version}
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
say "building $program $version for linux/$arch"
CGO_ENABLED=0 GOOS=linux GOARCH=$arch go build -trimpath -buildvcs=false -ldflags "-s -w -X main.version=$version" -o "$context/$program" "./cmd/$program"
chmod 0755 "$context/$program"

say "building $name with $engine"
options=(--tag "$name" --file "$file" --platform "linux/$arch")
case $engine in
podman | buildah) options+=(--timestamp "$SOURCE_DATE_EPOCH") ;; # reproducible
esac
"$engine" build "${options[@]}" "$context" >&2
echo "$name"
