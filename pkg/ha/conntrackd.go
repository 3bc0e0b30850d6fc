// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package ha

import (
	"fmt"
	"net/netip"
	"strings"
	"time"

	"github.com/smartnat/smartnat/pkg/config"
)

// conntrackdConf has, from 1: the family, this host's address and the peer's, port and link, lock and socket, and the addresses to ignore.
const conntrackdConf = `Sync {
    Mode FTFW {
        ResendQueueSize 131072
        ACKWindowSize 300
        DisableExternalCache yes
        StartupResync yes
    }
    UDP {
        %[1]s_address %[2]s
        %[1]s_Destination_Address %[3]s
        Port %[4]d
        Interface %[5]s
        SndSocketBuffer 4194304
        RcvSocketBuffer 4194304
        Checksum on
    }
    Options {
        # The peer cannot follow the windows of connections whose packets it does not see.
        TCPWindowTracking off
    }
}
General {
    HashSize 65536
    # Twice net.netfilter.nf_conntrack_max, at least (conntrackd.conf(5)).
    HashLimit 1048576
    LogFile off
    Syslog on
    LockFile %[6]s
    UNIX {
        Path %[7]s
    }
    NetlinkBufferSize 4194304
    NetlinkBufferSizeMaxGrowth 16777216
    NetlinkEventsReliable on
    Filter From Kernelspace {
        Protocol Accept {
            TCP
            UDP
            SCTP
            ICMP
            IPv6-ICMP
        }
        # Connections of the boxes themselves do not move. Those of the virtual addresses do.
        Address Ignore {
%[8]s        }
        # Not before a handshake is complete, so that a SYN flood stays here. The peer has to hear of the end in whatever state it comes.
        State Accept {
            ESTABLISHED FIN_WAIT CLOSE_WAIT LAST_ACK TIME_WAIT CLOSED for TCP
        }
    }
}
`

// Conntrackd returns conntrackd.conf. It writes connections of the peer straight into the kernel: with a cache in between, packets that
// come before the cache is committed meet no connection, and are answered with a reset.
func Conntrackd(cfg config.Config, programs Programs) (string, error) {
	if err := ready(cfg, programs); err != nil {
		return "", err
	}
	h := cfg.HA
	family := "IPv4"
	if h.SyncAddress.Is6() {
		family = "IPv6"
	}
	own := []netip.Addr{netip.MustParseAddr("127.0.0.1"), netip.MustParseAddr("::1"), h.SyncAddress, h.Peer}
	for _, l := range h.Links {
		own = append(append(own, l.Addresses...), l.Peers...)
	}
	var ignored strings.Builder
	for _, a := range own {
		key := "IPv4_address"
		if a.Is6() {
			key = "IPv6_address"
		}
		fmt.Fprintf(&ignored, "            %s %s\n", key, a)
	}
	return fmt.Sprintf(header, programs.Config) + fmt.Sprintf(conntrackdConf, family, h.SyncAddress, h.Peer, h.SyncPort, h.SyncLink, conntrackdLock, conntrackdSocket, ignored.String()), nil
}

// Commands returns the calls of conntrackd, as its arguments, that follow a change of role. conntrackd's own script does more, for
// its external cache, which is off here. Its "-t" would flush the table a minute later, with all that the peer copied.
func Commands(role Role) [][]string {
	switch role {
	case Primary:
		// Connections that came from the peer are now this box's own: read them from the kernel, and give the peer all.
		return [][]string{{"-R"}, {"-B"}}
	case Backup, Fault:
		// Forget what was this box's own, so that a peer which starts gets none of it, and ask the peer for all.
		return [][]string{{"-f", "internal"}, {"-n"}}
	}
	return nil
}

// RefreshCommand gives the peer all connections again: entries age there, since their packets do not pass.
func RefreshCommand() []string { return []string{"-B"} }

const (
	// refreshShare is the share of a timeout after which entries are refreshed.
	refreshShare = 4
	// minRefresh bounds the work, which grows with the entries on both boxes.
	minRefresh, maxRefresh = 5 * time.Second, 10 * time.Minute
)

// RefreshInterval returns the time between refreshes, for the timeouts of the kernel, of which 0 is not known.
func RefreshInterval(timeouts ...time.Duration) time.Duration {
	interval := maxRefresh
	for _, t := range timeouts {
		if t > 0 {
			interval = min(interval, t/refreshShare)
		}
	}
	return max(interval, minRefresh)
}
