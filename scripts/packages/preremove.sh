#!/bin/sh
# Copyright The SmartNat Authors.
# SPDX-License-Identifier: Apache-2.0
#
# Runs before a removal (dpkg: remove, rpm: 0) or an upgrade; only a removal stops the units.
set -e
[ "$1" = remove ] || [ "$1" = 0 ] || exit 0
if [ -d /run/systemd/system ]; then
	systemctl --quiet disable --now smartnatd.service smartnat-boundary.service || true
fi
echo "smartnat: programmed rules keep forwarding until the next boot; to end that at once, run smartnatd cleanup before the removal"
