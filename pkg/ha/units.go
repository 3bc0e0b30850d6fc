// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package ha

import (
	"fmt"
	"strings"

	"github.com/smartnat/smartnat/pkg/config"
)

const keepalivedPIDs = "/run/keepalived.pid /run/vrrp.pid /run/checkers.pid /run/keepalived/vrrp.pid /run/keepalived/checkers.pid"

// Units returns drop-ins for the units of all three programs.
func Units(cfg config.Config, programs Programs) ([]File, error) {
	if err := ready(cfg, programs); err != nil {
		return nil, err
	}
	top := fmt.Sprintf(header, programs.Config)
	return []File{
		{"systemd/system/keepalived.service.d/smartnat.conf", top + `[Unit]
# The addresses come when the rules and the connections are there.
Wants=smartnatd.service conntrackd.service
After=smartnatd.service conntrackd.service
StartLimitIntervalSec=0

[Service]
# A killed keepalived leaves its addresses behind, and the peer takes them too.
` + removals(cfg.HA) + `# It leaves its PID files too, and would not start again while another process has one of these numbers.
ExecStartPre=-/bin/rm -f ` + keepalivedPIDs + `
Restart=always
RestartSec=100ms
`},
		{"systemd/system/conntrackd.service.d/smartnat.conf", top + `[Unit]
StartLimitIntervalSec=0

[Service]
# A killed conntrackd leaves its lock behind, and would not start again.
ExecStartPre=-/bin/rm -f ` + conntrackdLock + `
Restart=always
RestartSec=1
`},
		{"systemd/system/smartnatd.service.d/ha.conf", top + `[Service]
# To ask neighbours by ARP.
RestrictAddressFamilies=AF_PACKET
`},
	}, nil
}

// removals returns the lines that remove the virtual addresses when keepalived has ended.
func removals(h config.HA) string {
	var lines strings.Builder
	for _, in := range instances(h) {
		for _, a := range in.virtual {
			fmt.Fprintf(&lines, "ExecStopPost=-/sbin/ip address del %s dev %s\n", a, in.link)
		}
	}
	return lines.String()
}

// Files returns all files.
func Files(cfg config.Config, programs Programs) ([]File, error) {
	keepalived, err := Keepalived(cfg, programs)
	if err != nil {
		return nil, err
	}
	conntrackd, err := Conntrackd(cfg, programs)
	if err != nil {
		return nil, err
	}
	units, err := Units(cfg, programs)
	if err != nil {
		return nil, err
	}
	return append([]File{{KeepalivedFile, keepalived}, {ConntrackdFile, conntrackd}}, units...), nil
}
