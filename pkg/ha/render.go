// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package ha

import (
	"errors"
	"fmt"
	"net/netip"
	"path"
	"strconv"
	"strings"
	"time"

	"github.com/smartnat/smartnat/pkg/config"
)

// File is a rendered file.
type File struct {
	// Path is relative to /etc.
	Path, Text string
}

// Programs says where the rendered files find smartnatd and its config.
type Programs struct{ Smartnatd, Config string }

// The paths of the config files of both programs, relative to /etc: those of Debian and Fedora.
const (
	KeepalivedFile = "keepalived/keepalived.conf"
	ConntrackdFile = "conntrackd/conntrackd.conf"
)

const (
	conntrackdLock   = "/run/conntrackd.lock"
	conntrackdSocket = "/run/conntrackd.ctl"
	// checkInterval and checkFall bound how long a daemon that hangs keeps the addresses: some 30 s. A restart is shorter, and costs no
	// traffic. The script ends by itself after 4 s at most; checkTimeout leaves the rest of an interval to a slow box that starts it.
	checkInterval, checkTimeout, checkFall = 10, 9, 3
)

const header = `# Written by 'smartnatd ha render' from %s. Change that file, and render this one again.
`

// TrackFile is the file by which smartnatd makes keepalived give up the virtual addresses, and RoleFile the one in which 'smartnatd ha
// notify' leaves what keepalived said last.
func TrackFile(runtimeDir string) string { return path.Join(runtimeDir, "ha-fault") }

// RoleFile is described at TrackFile.
func RoleFile(runtimeDir string) string { return path.Join(runtimeDir, "ha-role") }

// ready returns an error if there is no pair, or if a path cannot be written into the files of other programs.
func ready(cfg config.Config, programs Programs) error {
	if !cfg.HA.Enabled() {
		return errors.New("ha: is not set in the config, so there is no pair")
	}
	for _, p := range []struct{ what, path string }{
		{"runtimeDir", cfg.RuntimeDir}, {"the path of the config", programs.Config}, {"the path of smartnatd", programs.Smartnatd},
	} {
		if !config.PlainPath.MatchString(p.path) {
			return fmt.Errorf("%s: %q: must be an absolute path of letters, digits, '.', '_', '+' and '-', since keepalived would read other characters as its own", p.what, p.path)
		}
	}
	return nil
}

// instance is one VRRP instance.
type instance struct {
	name, link string
	id         int
	own, peer  netip.Addr
	virtual    []string
}

// linkLocal is the virtual address that an IPv6 instance has to begin with (RFC 5798, 5.2.9): that of the virtual router's MAC address
// 00-00-5E-00-02-{VRID} (7.3), so that it meets no other one.
func linkLocal(id int) netip.Addr {
	return netip.AddrFrom16([16]byte{0xfe, 0x80, 8: 0x02, 10: 0x5e, 11: 0xff, 12: 0xfe, 13: 0x00, 14: 0x02, 15: byte(id)})
}

// instances returns one for each link and family: an instance has one family and one link, and fails alone.
func instances(h config.HA) []instance {
	var all []instance
	for i, l := range h.Links {
		for _, four := range []bool{true, false} {
			in := instance{name: l.Interface + "-ipv4", link: l.Interface, id: h.VirtualRouterID + i}
			if !four {
				in.name = l.Interface + "-ipv6"
				in.virtual = []string{linkLocal(in.id).String() + "/64"}
			}
			found := false
			for _, a := range l.VirtualAddresses {
				if a.Is4() == four {
					found = true
					in.virtual = append(in.virtual, netip.PrefixFrom(a, a.BitLen()).String())
				}
			}
			if !found {
				continue
			}
			in.own, in.peer = ofFamily(l.Addresses, four), ofFamily(l.Peers, four)
			all = append(all, in)
		}
	}
	return all
}

func ofFamily(addrs []netip.Addr, four bool) netip.Addr {
	for _, a := range addrs {
		if a.Is4() == four {
			return a
		}
	}
	return netip.Addr{}
}

// seconds spells a duration as keepalived reads it.
func seconds(d time.Duration) string { return strconv.FormatFloat(d.Seconds(), 'f', -1, 64) }

// Keepalived returns keepalived.conf. Its order matters: keepalived ignores a track_file or vrrp_script that stands behind the group which
// refers to it.
func Keepalived(cfg config.Config, programs Programs) (string, error) {
	if err := ready(cfg, programs); err != nil {
		return "", err
	}
	h := cfg.HA
	all := instances(h)
	names := make([]string, 0, len(all))
	for _, in := range all {
		names = append(names, in.name)
	}
	var b strings.Builder
	line := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	fmt.Fprintf(&b, header, programs.Config)
	line("global_defs {")
	line("    router_id %s", cfg.Instance)
	line("    script_user root\n    enable_script_security")
	line("    vrrp_version 3")
	line("    # The sockets take adverts from any host.")
	line("    vrrp_check_unicast_src")
	line("    # The link may come later than keepalived, or again.")
	line("    dynamic_interfaces allow_if_changes")
	line("    # Adverts are late if other programs take all processors.")
	line("    vrrp_priority -20\n    vrrp_no_swap\n}\n")
	line("# smartnatd writes 1 while it misses neighbours that the peer sees.")
	line("track_file smartnat_neighbours {\n    file \"%s\"\n    weight 0\n    init_file 0 overwrite\n}\n", TrackFile(cfg.RuntimeDir))
	line("# Fails if smartnatd hangs here while the peer's answers.")
	line("vrrp_script smartnat_daemon {\n    script \"%s ha check --script --config %s\"\n    interval %d\n    timeout %d\n    fall %d\n    rise 1\n}\n",
		programs.Smartnatd, programs.Config, checkInterval, checkTimeout, checkFall)
	line("# All addresses are on the same box.")
	line("vrrp_sync_group smartnat {\n    group {\n        %s\n    }", strings.Join(names, "\n        "))
	for _, n := range []struct{ key, role string }{
		{"notify_master", string(Primary)}, {"notify_backup", string(Backup)}, {"notify_fault", string(Fault)}, {"notify_stop", string(Stopped)},
	} {
		line("    %s", notify(n.key, n.role, cfg, programs))
	}
	line("    track_file {\n        smartnat_neighbours weight 0\n    }\n    track_script {\n        smartnat_daemon\n    }\n}")
	again := ""
	if h.Hook != "" {
		if again = notify("notify_master_rx_lower_pri", string(Primary), cfg, programs); len(again) > maxLine {
			return "", fmt.Errorf("ha.links: the hook needs all virtual addresses in a line of %d characters, and keepalived reads %d: use fewer", len(again), maxLine)
		}
		again = "# The peer held the addresses too, and may have moved them: the hook has to move them back.\n    " + again + "\n    "
	}
	for _, in := range all {
		b.WriteString(in.render(h, again))
	}
	return b.String(), nil
}

// maxLine is below the 1024 characters of a line that keepalived reads.
const maxLine = 1000

// notify returns the line that has keepalived report a role. It has all that a hook needs, since the config may be invalid by then.
func notify(key, role string, cfg config.Config, programs Programs) string {
	hook := ""
	if cfg.HA.Hook != "" {
		hook = fmt.Sprintf(" --hook %s --instance %s --addresses %s", cfg.HA.Hook, cfg.Instance, strings.Join(HookAddresses(cfg.HA), ","))
	}
	return fmt.Sprintf("%s \"%s ha notify %s --runtime-dir %s%s\"", key, programs.Smartnatd, role, cfg.RuntimeDir, hook)
}

func (in instance) render(h config.HA, again string) string {
	preempt := "nopreempt"
	if h.Preempt.After > 0 {
		preempt = "preempt_delay " + seconds(h.Preempt.After)
	}
	return fmt.Sprintf(`
vrrp_instance %s {
    state BACKUP
    interface %s
    virtual_router_id %d
    priority %d
    version 3
    advert_int %s
    %s
    # The neighbours hear of the takeover at once, again after a second, and every second: after a split that healed, the last one
    # that they heard must be the primary.
    garp_master_delay 1
    garp_master_repeat 3
    garp_master_refresh 1
    garp_lower_prio_delay 0
    garp_lower_prio_repeat 3
    unicast_src_ip %s
    # By default those of IPv6 have 64.
    unicast_ttl 255
    unicast_peer {
        # Every router on the way would lower the TTL.
        %s min_ttl 255 max_ttl 255
    }
    %svirtual_ipaddress {
        %s
    }
}
`, in.name, in.link, in.id, h.Priority, seconds(h.AdvertInterval), preempt, in.own, in.peer, again, strings.Join(in.virtual, "\n        "))
}
