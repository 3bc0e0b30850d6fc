#!/usr/bin/env bash
# Copyright The SmartNat Authors.
# SPDX-License-Identifier: Apache-2.0
#
# Builds all files of a release: deb and rpm, kubectl smartnat for Linux, macOS and Windows, the images of the relay and of smartnatd for
# amd64 and arm64 as one OCI archive each, install.yaml, nodes.yaml and the chart with their digests, a bill of materials (CycloneDX) for
# each program, the changes, and checksums. The same commit gives the same bytes.
#   release.sh          into dist/, which must not hold other files
# The version is the first one in .github/CHANGELOG.md. If the commit has a tag, it must be that version. DIST is another folder.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

say() { echo "release: $*" >&2; }
fail() {
	say "$@"
	exit 1
}

changelog=.github/CHANGELOG.md
version=$(sed -n 's/^## \([0-9]\+\.[0-9]\+\.[0-9]\+\)\( .*\)\?$/\1/p' "$changelog" | head -n 1)
[[ -n $version ]] || fail "$changelog has no heading such as '## 1.2.3': it says which version this is"
if git rev-parse --git-dir >/dev/null 2>&1; then
	[[ -z $(git status --porcelain) ]] || fail "the tree has changes that are not committed: what would be released has no name"
	tags=$(git tag --points-at HEAD 'v[0-9]*')
	[[ -z $tags || $tags == "v$version" ]] || fail "this commit is tagged $tags, but $changelog begins with $version"
	[[ -n $tags ]] || say "this commit has no tag v$version: for a trial only"
fi
command -v buildah >/dev/null || fail "buildah is not installed: scripts/setup.sh test"

dist=$(realpath -m "${DIST:-dist}")
[[ ! -d $dist || -z $(ls -A "$dist") ]] || fail "$dist holds files of something else: make clean"
mkdir -p "$dist"
export VERSION=$version DIST=$dist
SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct 2>/dev/null || echo 0)}
export SOURCE_DATE_EPOCH
umask 022
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT

scripts/packages/build.sh

# archive FOLDER FILE NAMES...: packs files of a folder, always as the same bytes.
archive() {
	tar --directory "$1" --sort=name --mtime="@$SOURCE_DATE_EPOCH" --owner=0 --group=0 --numeric-owner --format=gnu --create "${@:3}" >"$2"
}

say "kubectl smartnat"
for platform in linux/amd64 linux/arm64 darwin/amd64 darwin/arm64 windows/amd64; do
	plugin=kubectl-smartnat
	[[ $platform != windows/* ]] || plugin+=.exe
	folder=$tmp/plugin/$platform
	mkdir -p "$folder"
	install -m 0644 LICENSE "$folder/"
	CGO_ENABLED=0 GOOS=${platform%/*} GOARCH=${platform#*/} go build -trimpath -buildvcs=false -ldflags "-s -w -buildid= -X main.version=$version" \
		-o "$folder/$plugin" ./cmd/kubectl-smartnat
	chmod 0755 "$folder/$plugin"
	archive "$folder" "$tmp/plugin.tar" LICENSE "$plugin"
	gzip -9n <"$tmp/plugin.tar" >"$dist/kubectl-smartnat_${version}_${platform/\//_}.tar.gz"
done

scripts/krew.sh "$version" "$dist" >"$dist/krew.yaml"

# A store of its own: nothing stays behind, and no other image gets in.
printf '[storage]\ndriver = "vfs"\ngraphroot = "%s"\nrunroot = "%s"\n' "$tmp/graph" "$tmp/run" >"$tmp/storage.conf"
export CONTAINERS_STORAGE_CONF=$tmp/storage.conf BUILDAH_ISOLATION=chroot ENGINE=buildah

# image PROGRAM: builds its image for both architectures into one archive, and prints the digest.
image() {
	local list=$1:v$version arch
	say "image of $1"
	buildah manifest create "$list" >/dev/null
	for arch in amd64 arm64; do
		PROGRAM=$1 GOARCH=$arch scripts/image.sh "localhost/$1:$arch" >/dev/null 2>"$tmp/log" || fail "$(cat "$tmp/log")"
		buildah manifest add "$list" "localhost/$1:$arch" >/dev/null
	done
	buildah manifest push --quiet --all --digestfile "$tmp/$1.digest" "$list" "oci:$tmp/$1.image:v$version" >/dev/null
	# buildah's own archives carry the time of their making.
	archive "$tmp/$1.image" "$dist/$1_${version}_oci.tar" .
	cat "$tmp/$1.digest"
}
digest=$(image smartnat-relay)
scripts/manifests.sh "ghcr.io/smartnat/smartnat-relay@$digest" "$dist/install.yaml" >/dev/null
of_nodes=$(image smartnatd)
scripts/manifests.sh "ghcr.io/smartnat/smartnatd@$of_nodes" "$dist/nodes.yaml" relay/manifests/nodes >/dev/null

say "chart"
mkdir "$tmp/chart"
scripts/chart.sh "$version" "$digest" "$of_nodes" "$tmp/chart/smartnat-relay"
chmod -R u=rwX,go=rX "$tmp/chart"
archive "$tmp/chart" "$tmp/chart.tar" smartnat-relay
gzip -9n <"$tmp/chart.tar" >"$dist/smartnat-relay-$version.tgz"

say "bills of materials"
sbom="$(scripts/tools/build.sh cyclonedx)/cyclonedx-gomod"
for program in cmd/*; do
	program=${program#cmd/}
	CGO_ENABLED=0 GOOS=linux GOARCH=amd64 go build -trimpath -buildvcs=false -ldflags "-s -w -buildid= -X main.version=$version" -o "$tmp/$program" "./cmd/$program"
	"$sbom" bin -json -noserial -notimestamp -version "v$version" -output "$dist/${program}_$version.cdx.json" "$tmp/$program" 2>"$tmp/log" ||
		fail "$(cat "$tmp/log")"
done

awk -v begin="## $version" '/^## / { on = index($0, begin) == 1; next } on' "$changelog" >"$dist/CHANGES.md"
(cd "$dist" && sha256sum -- * >"$tmp/SHA256SUMS" && mv "$tmp/SHA256SUMS" .)
chmod 0644 "$dist"/*
say "$version is in $dist"
