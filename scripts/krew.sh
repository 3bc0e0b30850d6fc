#!/usr/bin/env bash
# Copyright The SmartNat Authors.
# SPDX-License-Identifier: Apache-2.0
#
# Prints the manifest of the plugin for krew, with the checksums of the archives of a release:
#   krew.sh VERSION FOLDER
set -euo pipefail
(($# == 2)) || {
	echo "usage: krew.sh VERSION FOLDER" >&2
	exit 2
}
version=$1 folder=$2
prefix=kubectl-smartnat_${version}_
found=0

cat <<END
# Copyright The SmartNat Authors.
# SPDX-License-Identifier: Apache-2.0
#
# kubectl krew install --manifest=krew.yaml
apiVersion: krew.googlecontainertools.github.com/v1alpha2
kind: Plugin
metadata:
  name: smartnat
spec:
  version: v$version
  homepage: https://github.com/smartnat/smartnat
  shortDescription: Enroll gateways of SmartNat and see its Mappings
  description: |
    Makes a Linux host a gateway that exposes Services of this cluster on its external addresses, revokes gateways, and shows what the
    cluster knows about Mappings: whether they are ready, and if not, why.
  platforms:
END
for archive in "$folder/$prefix"*.tar.gz; do
	[[ -e $archive ]] || break
	platform=${archive#"$folder/$prefix"}
	platform=${platform%.tar.gz}
	suffix=''
	[[ $platform != windows_* ]] || suffix=.exe
	sum=$(sha256sum "$archive")
	cat <<-END
		  - selector: {matchLabels: {os: ${platform%_*}, arch: ${platform#*_}}}
		    uri: https://github.com/smartnat/smartnat/releases/download/v$version/${archive##*/}
		    sha256: ${sum%% *}
		    bin: kubectl-smartnat$suffix
	END
	found=$((found + 1))
done
((found > 0)) || {
	echo "krew: no $folder/$prefix*.tar.gz" >&2
	exit 1
}
