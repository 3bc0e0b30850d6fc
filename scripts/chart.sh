#!/usr/bin/env bash
# Copyright The SmartNat Authors.
# SPDX-License-Identifier: Apache-2.0
#
# Copies the Helm chart into a new folder, with the version and the images of a release:
#   chart.sh VERSION DIGEST_OF_RELAY DIGEST_OF_SMARTNATD FOLDER
set -euo pipefail
[[ $# -eq 4 && "$2 $3" =~ ^sha256:[0-9a-f]{64}\ sha256:[0-9a-f]{64}$ ]] || {
	echo "chart: '$*' is not VERSION sha256:DIGEST sha256:DIGEST FOLDER" >&2
	exit 2
}
version=$1 relay=$2 nodes=$3 folder=$4
cp -RLT "$(dirname "${BASH_SOURCE[0]}")/../relay/chart" "$folder"
sed -i "s/^version: .*/version: $version/; s/^appVersion: .*/appVersion: $version/" "$folder/Chart.yaml"
# The image of the relay is indented by two spaces, that of nodes by four.
sed -i "s/^\(  \|    \)tag: .*/\1tag: v$version/; s/^  digest: .*/  digest: $relay/; s/^    digest: .*/    digest: $nodes/" "$folder/values.yaml"
[[ $(grep -cxE "  digest: $relay|    digest: $nodes" "$folder/values.yaml") == 2 ]] || {
	echo "chart: relay/chart/values.yaml does not have one image.digest and one nodes.image.digest to set" >&2
	exit 1
}
