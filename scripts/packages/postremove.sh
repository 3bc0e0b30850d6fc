#!/bin/sh
# Copyright The SmartNat Authors.
# SPDX-License-Identifier: Apache-2.0
#
# Runs after a removal or a purge. Credentials in /etc/smartnat stay until their owner removes them.
set -e
if [ -d /run/systemd/system ]; then
	systemctl daemon-reload || true
fi
if [ "$1" = purge ]; then
	rm -rf /var/lib/smartnat /run/smartnat
fi
