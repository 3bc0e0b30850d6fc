#!/bin/sh
# Copyright The SmartNat Authors.
# SPDX-License-Identifier: Apache-2.0
#
# Runs after an installation or upgrade; on an upgrade dpkg passes the old version as $2, rpm the number of versions as $1.
set -e
# Its members may ask the running smartnatd questions. Without the group, only root may.
getent group smartnat >/dev/null || groupadd --system smartnat || echo "smartnat: cannot create the group smartnat; only root can ask smartnatd questions" >&2
[ -d /run/systemd/system ] || exit 0
systemctl daemon-reload || true
if [ "$1" = configure ] && [ -n "$2" ] || [ "$1" = 2 ]; then
	# try-restart does nothing if the unit does not run. A restart changes only rules that differ; traffic flows on.
	systemctl --no-block try-restart smartnatd.service || true
else
	echo "smartnat: run smartnatd enroll BUNDLE --start, or edit /etc/smartnat.yaml, then: smartnatd check && systemctl enable --now smartnatd"
fi
