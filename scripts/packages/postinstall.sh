#!/bin/sh
# Copyright The SmartNat Authors.
# SPDX-License-Identifier: Apache-2.0
#
# After an installation or upgrade; dpkg gives the old version as $2 then, rpm the number of versions as $1.
set -e
[ -d /run/systemd/system ] || exit 0
systemctl daemon-reload || true
if [ "$1" = configure ] && [ -n "$2" ] || [ "$1" = 2 ]; then
	# Does nothing where it does not run. A restart changes no rule that is still right; traffic flows on meanwhile.
	systemctl --no-block try-restart smartnatd.service || true
else
	echo "smartnat: edit /etc/smartnat.yaml, then: smartnatd check && systemctl enable --now smartnatd"
fi
