#!/usr/bin/env bash
# Copyright The SmartNat Authors.
# SPDX-License-Identifier: Apache-2.0
#
# Generates everything from apis/: deepcopy functions, the CRD and its reference, apply configurations, clientset and listers. Informers are not
# generated, because the project has its own.
#   update.sh [TREE]    TREE is the root of the work tree to write to; default: this one
set -euo pipefail

here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
tree="$(cd "${1:-$here/../..}" && pwd)"
bin="$("$here/../tools/build.sh" generators)"
header="$here/boilerplate.go.txt"

cd "$tree"
module="$(go list -m)"
api="$module/apis/smartnat/v1alpha1"

echo "deepcopy functions"
"$bin/deepcopy-gen" --go-header-file "$header" --output-file zz_generated.deepcopy.go "./apis/smartnat/v1alpha1"

echo "CRD"
"$bin/controller-gen" "crd:headerFile=$here/boilerplate.yaml.txt" paths=./apis/smartnat/... output:crd:dir=./apis/crds

echo "reference of the Mapping"
reference="$(go run ./scripts/codegen/reference)"
printf '%s\n' "$reference" >apis/smartnat/v1alpha1/reference.md

# Remove files that are no longer generated.
rm -rf generated
mkdir -p generated

echo "apply configurations"
"$bin/applyconfiguration-gen" --go-header-file "$header" \
	--output-dir generated/applyconfiguration --output-pkg "$module/generated/applyconfiguration" "$api"

echo "clientset"
"$bin/client-gen" --go-header-file "$header" --clientset-name versioned \
	--output-dir generated/clientset --output-pkg "$module/generated/clientset" \
	--apply-configuration-package "$module/generated/applyconfiguration" \
	--input-base "$module/apis" --input smartnat/v1alpha1

echo "listers"
"$bin/lister-gen" --go-header-file "$header" \
	--output-dir generated/listers --output-pkg "$module/generated/listers" "$api"
