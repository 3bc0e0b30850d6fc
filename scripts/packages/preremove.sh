#!/bin/sh
# Copyright The SmartNat Authors.
# SPDX-License-Identifier: Apache-2.0
#
# Before a removal (dpkg: remove, rpm: 0), which an upgrade is not.
set -e
[ "$1" = remove ] || [ "$1" = 0 ] || exit 0
if [ -d /run/systemd/system ]; then
	systemctl --quiet disable --now smartnatd.service smartnat-boundary.service || true
fi
echo "smartnat: what was programmed forwards on until the next boot; to end it at once, run smartnatd cleanup before removing"
