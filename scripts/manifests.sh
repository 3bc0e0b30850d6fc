#!/usr/bin/env bash
# Copyright The SmartNat Authors.
# SPDX-License-Identifier: Apache-2.0
#
# Writes all that a cluster needs as one file: the CRD, the relay and the admission policy.
#   manifests.sh IMAGE@sha256:DIGEST [FILE [FOLDER]]   default dist/install.yaml from relay/manifests
# KUBECTL names another kubectl than that of scripts/kube. VERSION defaults to that of the git commit.
set -euo pipefail
file=$(realpath -m "${2:-"$(dirname "${BASH_SOURCE[0]}")/../dist/install.yaml"}")
cd "$(dirname "${BASH_SOURCE[0]}")/.."

image=${1:-} folder=${3:-relay/manifests}
[[ $image =~ ^([a-z0-9./:_-]+)@(sha256:[0-9a-f]{64})$ ]] || {
	echo "manifests: '$image' is not NAME@sha256:DIGEST, with 64 hexadecimal digits: a tag may change after the release" >&2
	exit 2
}
name=${BASH_REMATCH[1]} digest=${BASH_REMATCH[2]}
program=$([[ $folder == */nodes ]] && echo smartnatd || echo smartnat-relay)
version=${VERSION:-$(git describe --tags --always --dirty 2>/dev/null || echo development)}
kubectl=${KUBECTL:-$(scripts/kube/build.sh)/kubectl}

tmp="$(mktemp -d)"
trap 'rm -rf "$tmp"' EXIT
# kustomize takes only relative paths, and does not know that the folder may be a link.
tmp=$(realpath "$tmp")
cat >"$tmp/kustomization.yaml" <<END
resources: [$(realpath --relative-to="$tmp" "$folder")]
images:
- {name: ghcr.io/smartnat/$program, newName: "$name", digest: "$digest"}
END
{
	sed '/^$/,$d' "$folder/kustomization.yaml" # copyright
	echo "#"
	echo "# SmartNat $version for a cluster: kubectl apply -f ${file##*/}"
	"$kubectl" kustomize "$tmp"
} >"$tmp/install.yaml"
mkdir -p "$(dirname "$file")"
mv "$tmp/install.yaml" "$file"
echo "$file"
