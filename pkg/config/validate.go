// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package config

import (
	"fmt"
	"math/bits"
	"net"
	"net/netip"
	"net/url"
	"path"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/sirupsen/logrus"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/smartnat/smartnat/pkg/gateway"
)

// The data planes.
const (
	DataplaneAuto     = "auto"
	DataplaneNFTables = "nftables"
	DataplaneIPTables = "iptables"
)

// The values of flowtable.
const (
	FlowtableAuto = "auto"
	FlowtableOff  = "off"
)

// The values of endpointChoice.
const (
	ChoiceRandom = "random"
	ChoiceMaglev = "maglev"
)

// The variants of iptables.
const (
	VariantAuto     = "auto"
	VariantNFTables = "nf_tables"
	VariantLegacy   = "legacy"
)

// minFlowLog and maxFlowLog bound the flow log, in megabytes: a question reads it all.
const (
	minFlowLog = 4
	maxFlowLog = 4096
)

// ValidInstance reports whether a text can be an instance: a DNS subdomain (RFC 1123).
func ValidInstance(text string) bool { return len(validation.IsDNS1123Subdomain(text)) == 0 }

func (c *Config) validate() field.ErrorList {
	var errs field.ErrorList
	if !ValidInstance(c.Instance) {
		errs = append(errs, field.Invalid(field.NewPath("instance"), c.Instance,
			"must be a name of lower case letters, digits, '-' and '.', as a host name is; set it when the host's own name is not"))
	} else if !ValidInstance(c.Node) {
		errs = append(errs, field.Invalid(field.NewPath("node"), c.Node, "must be the name of a node, as kubectl get nodes shows it"))
	}
	errs = append(errs, c.Source.validate(field.NewPath("source"))...)
	errs = append(errs, validateUplinks(c.Uplinks, field.NewPath("uplinks"))...)
	errs = append(errs, validateServiceRoutes(c.ServiceRoutes, field.NewPath("serviceRoutes"))...)
	errs = append(errs, validateNetworks(c.InsideNetworks, field.NewPath("insideNetworks"))...)
	errs = append(errs, validateAddresses(c.StandbyAddresses, field.NewPath("standbyAddresses"))...)
	errs = append(errs, validateAddresses(c.ServedAddresses, field.NewPath("servedAddresses"))...)
	errs = append(errs, validateMasqueradeAddresses(c.MasqueradeAddresses, field.NewPath("masqueradeAddresses"))...)
	errs = append(errs, validateNetworks(c.BackendNetworks, field.NewPath("backendNetworks"))...)
	errs = append(errs, c.validateGrants()...)
	errs = append(errs, validateLimit(c.MaxPortsPerMapping, "maxPortsPerMapping")...)
	errs = append(errs, validateLimit(c.MaxPortsPerNamespace, "maxPortsPerNamespace")...)
	errs = append(errs, validateLimit(c.MaxRulesPerMapping, "maxRulesPerMapping")...)
	errs = append(errs, validateLimit(c.MaxRulesPerNamespace, "maxRulesPerNamespace")...)
	if c.Resync < time.Second {
		errs = append(errs, field.Invalid(field.NewPath("resync"), c.Resync.String(), "must be at least 1s"))
	}
	if c.StartTimeout < time.Second {
		errs = append(errs, field.Invalid(field.NewPath("startTimeout"), c.StartTimeout.String(), "must be at least 1s"))
	}
	errs = append(errs, validatePath(c.StateDir, field.NewPath("stateDir"))...)
	errs = append(errs, validatePath(c.RuntimeDir, field.NewPath("runtimeDir"))...)
	errs = append(errs, validateChoice(c.Dataplane, field.NewPath("dataplane"), DataplaneAuto, DataplaneNFTables, DataplaneIPTables)...)
	errs = append(errs, validateChoice(c.Flowtable, field.NewPath("flowtable"), FlowtableAuto, FlowtableOff)...)
	errs = append(errs, validateChoice(c.EndpointChoice, field.NewPath("endpointChoice"), ChoiceRandom, ChoiceMaglev)...)
	if c.EndpointChoice == ChoiceMaglev && c.Dataplane != DataplaneNFTables {
		errs = append(errs, field.Invalid(field.NewPath("endpointChoice"), c.EndpointChoice, "needs dataplane: nftables; iptables has no such hash"))
	}
	errs = append(errs, validateChoice(c.IPTables.Variant, field.NewPath("iptables", "variant"), VariantAuto, VariantNFTables, VariantLegacy)...)
	if c.IPTables.LockTimeout < 0 {
		errs = append(errs, field.Invalid(field.NewPath("iptables", "lockTimeout"), c.IPTables.LockTimeout.String(), "must not be negative"))
	}
	errs = append(errs, validateOwnership(c.Ownership, field.NewPath("ownership"))...)
	if _, err := logrus.ParseLevel(c.Log.Level); err != nil {
		errs = append(errs, validateChoice(c.Log.Level, field.NewPath("log", "level"), "error", "warn", "info", "debug", "trace")...)
	}
	errs = append(errs, validateListen(c.Metrics.Address, field.NewPath("metrics", "address"))...)
	if c.FlowLog.File != "" {
		errs = append(errs, validatePath(c.FlowLog.File, field.NewPath("flowLog", "file"))...)
	}
	if n := c.FlowLog.MaxMegabytes; n < minFlowLog || n > maxFlowLog {
		errs = append(errs, field.Invalid(field.NewPath("flowLog", "maxMegabytes"), n, fmt.Sprintf("must be from %d to %d", minFlowLog, maxFlowLog)))
	}
	errs = append(errs, c.Announce.validate(field.NewPath("announce"))...)
	errs = append(errs, c.validateHA(field.NewPath("ha"))...)
	return append(errs, validateChoice(c.Log.Format, field.NewPath("log", "format"), "text", "json")...)
}

func (a Announce) validate(at *field.Path) field.ErrorList {
	errs := validateNetworks(a.Networks, at.Child("networks"))
	errs = append(errs, validatePath(a.File, at.Child("file"))...)
	return append(errs, validatePath(a.Socket, at.Child("socket"))...)
}

func validateLimit(n int, key string) field.ErrorList {
	if n >= 0 {
		return nil
	}
	return field.ErrorList{field.Invalid(field.NewPath(key), n, "must not be negative; 0 is no limit")}
}

// validateNetworks refuses also the network that holds everything.
func validateNetworks(networks []netip.Prefix, at *field.Path) field.ErrorList {
	return validatePrefixes(networks, at, 1)
}

// validatePrefixes refuses also networks with fewer bits than minBits.
func validatePrefixes(networks []netip.Prefix, at *field.Path, minBits int) field.ErrorList {
	var errs field.ErrorList
	seen := map[netip.Prefix]bool{}
	for i, n := range networks {
		switch {
		case n.Bits() < minBits:
			errs = append(errs, field.Invalid(at.Index(i), n.String(), "must not be everything: it would lead connections to the outside"))
		case n.Addr().Is4In6():
			errs = append(errs, field.Invalid(at.Index(i), n.String(), "is an IPv4-mapped IPv6 network; must be written as an IPv4 network"))
		case n != n.Masked():
			errs = append(errs, field.Invalid(at.Index(i), n.String(), "has bits set beyond its prefix length; must be written as "+n.Masked().String()))
		case seen[n]:
			errs = append(errs, field.Duplicate(at.Index(i), n.String()))
		}
		seen[n] = true
	}
	return errs
}

// validateListen accepts an address to listen on, or "".
func validateListen(address string, at *field.Path) field.ErrorList {
	if address == "" {
		return nil
	}
	_, port, err := net.SplitHostPort(address)
	if err == nil {
		_, err = strconv.ParseUint(port, 10, 16)
	}
	if err == nil {
		return nil
	}
	return field.ErrorList{field.Invalid(at, address, `must be of the form HOST:PORT such as 127.0.0.1:9470 or [::1]:9470, or "" to serve nothing`)}
}

func validatePath(name string, at *field.Path) field.ErrorList {
	if filepath.IsAbs(name) {
		return nil
	}
	return field.ErrorList{field.Invalid(at, name, "must be an absolute path")}
}

// validateFile accepts the path of a file that need not exist. The error omits other text, because it may be the secret that
// belongs into the file, and secrets must not be logged.
func validateFile(name string, at *field.Path) field.ErrorList {
	if name == "" || filepath.IsAbs(name) && !strings.ContainsAny(name, "\n\r") {
		return nil
	}
	return field.ErrorList{field.Invalid(at, "(not a path)", "must be the absolute path of a file")}
}

func validateChoice(got string, at *field.Path, choices ...string) field.ErrorList {
	for _, c := range choices {
		if got == c {
			return nil
		}
	}
	return field.ErrorList{field.NotSupported(at, got, choices)}
}

func (s *Source) validate(at *field.Path) field.ErrorList {
	var set []string
	var errs field.ErrorList
	if s.Relay != nil {
		set = append(set, "relay")
		errs = append(errs, s.Relay.validate(at.Child("relay"))...)
	}
	if s.Kubeconfig != nil {
		set = append(set, "kubeconfig")
		if s.Kubeconfig.Path == "" && s.Kubeconfig.Context != "" {
			errs = append(errs, field.Required(at.Child("kubeconfig", "path"), "must be the path of the kubeconfig file that has the context"))
		}
		errs = append(errs, validateFile(s.Kubeconfig.Path, at.Child("kubeconfig", "path"))...)
	}
	if s.Files != nil {
		set = append(set, "files")
		if len(s.Files.Paths) == 0 {
			errs = append(errs, field.Required(at.Child("files", "paths"), "must name files or folders"))
		}
		for i, name := range s.Files.Paths {
			if name == "" || name == "-" {
				errs = append(errs, field.Invalid(at.Child("files", "paths").Index(i), name, "must be a file or a folder"))
			}
		}
	}
	switch len(set) {
	case 0:
		return field.ErrorList{field.Required(at, "must hold one of relay, kubeconfig, files")}
	case 1:
		return errs
	}
	return field.ErrorList{field.Invalid(at, strings.Join(set, ", "), "must be only one of them")}
}

func (r *Relay) validate(at *field.Path) field.ErrorList {
	var errs field.ErrorList
	if len(r.Servers) == 0 {
		errs = append(errs, field.Required(at.Child("servers"), "must hold at least one URL such as https://10.10.0.11:8443"))
	}
	for i, server := range r.Servers {
		u, err := url.Parse(server)
		if err != nil || u.Scheme != "https" || u.Host == "" || strings.Trim(u.Path, "/") != "" || u.RawQuery != "" || u.User != nil {
			if strings.Contains(server, "@") {
				server = "(with a password)" // passwords must not be logged
			}
			errs = append(errs, field.Invalid(at.Child("servers").Index(i), server, "must be of the form https://HOST:PORT"))
		}
	}
	if (r.CertFile == "") != (r.KeyFile == "") {
		missing := "keyFile"
		if r.CertFile == "" {
			missing = "certFile"
		}
		errs = append(errs, field.Required(at.Child(missing), "certFile and keyFile go together"))
	}
	switch certificate := r.CertFile != "" || r.KeyFile != ""; {
	case certificate && r.TokenFile != "":
		errs = append(errs, field.Forbidden(at.Child("tokenFile"), "must not be set together with certFile and keyFile"))
	case !certificate && r.TokenFile == "":
		errs = append(errs, field.Required(at.Child("tokenFile"), "a relay requires a credential: set tokenFile, or certFile and keyFile"))
	}
	errs = append(errs, validateFile(r.CAFile, at.Child("caFile"))...)
	errs = append(errs, validateFile(r.TokenFile, at.Child("tokenFile"))...)
	errs = append(errs, validateFile(r.CertFile, at.Child("certFile"))...)
	errs = append(errs, validateFile(r.KeyFile, at.Child("keyFile"))...)
	return errs
}

func validateUplinks(uplinks []Uplink, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	seen := map[string]bool{}
	for i, u := range uplinks {
		at := at.Index(i)
		if seen[u.Interface] {
			errs = append(errs, field.Duplicate(at.Child("interface"), u.Interface))
		}
		seen[u.Interface] = true
		if problem := interfaceProblem(u.Interface); problem != "" {
			errs = append(errs, field.Invalid(at.Child("interface"), u.Interface, problem))
		}
		if u.Gateways != nil && u.GatewayOffset != 0 {
			errs = append(errs, field.Invalid(at.Child("gatewayOffset"), u.GatewayOffset, "must not be set together with a gateway"))
		}
		if u.GatewayOffset < 0 {
			errs = append(errs, field.Invalid(at.Child("gatewayOffset"), u.GatewayOffset, "must be at least 1, the first address of the network"))
		}
		errs = append(errs, validateAddresses(u.Gateways, at.Child("gateways"))...)
		if len(u.Gateways) > 2 || len(u.Gateways) == 2 && u.Gateways[0].Is4() == u.Gateways[1].Is4() {
			errs = append(errs, field.Invalid(at.Child("gateways"), fmt.Sprint(u.Gateways), "must be at most one IPv4 and one IPv6 address"))
		}
	}
	return errs
}

// Pattern returns a function that matches the names of an Uplink's Interface, or nil if it is a plain name.
func (u Uplink) Pattern() (func(name string) bool, error) {
	text := u.Interface
	if len(text) > 1 && strings.HasPrefix(text, "/") && strings.HasSuffix(text, "/") {
		expr, err := regexp.Compile(text[1 : len(text)-1])
		if err != nil {
			return nil, err
		}
		return expr.MatchString, nil
	}
	if !strings.ContainsAny(text, `*?[\`) {
		return nil, nil
	}
	if _, err := path.Match(text, ""); err != nil {
		return nil, err
	}
	return func(name string) bool { matches, _ := path.Match(text, name); return matches }, nil
}

func interfaceProblem(text string) string {
	const maxName = 15 // IFNAMSIZ without the terminating zero
	pattern, err := Uplink{Interface: text}.Pattern()
	switch {
	case err != nil:
		return err.Error()
	case pattern == nil && (text == "" || len(text) > maxName || strings.ContainsAny(text, "/ \t\n+")):
		return fmt.Sprintf("must be the name of a link (at most %d characters), a glob such as eth*, or a regular expression between slashes", maxName)
	}
	return ""
}

// reachable includes link-local IPv6 addresses, which routers advertise.
func reachable(a netip.Addr) bool { return a.IsGlobalUnicast() || a.Is6() && a.IsLinkLocalUnicast() }

// validateAddresses accepts addresses that a host can have.
func validateAddresses(addrs []netip.Addr, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	seen := map[netip.Addr]bool{}
	for i, a := range addrs {
		switch {
		case seen[a]:
			errs = append(errs, field.Duplicate(at.Index(i), a.String()))
		case a.Is4In6() || a.Zone() != "" || !reachable(a):
			errs = append(errs, field.Invalid(at.Index(i), a.String(), "must be a unicast address"))
		}
		seen[a] = true
	}
	return errs
}

func validateServiceRoutes(routes []gateway.ServiceRoute, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	seen := map[netip.Prefix]bool{}
	for i, r := range routes {
		at := at.Index(i)
		switch dst := r.Destination; {
		case !dst.IsValid():
			errs = append(errs, field.Required(at.Child("destination"), "must be a network such as 10.96.0.0/16"))
		case dst != dst.Masked():
			errs = append(errs, field.Invalid(at.Child("destination"), dst.String(), "has bits set beyond its prefix length; must be written as "+dst.Masked().String()))
		case dst.Bits() == 0:
			errs = append(errs, field.Invalid(at.Child("destination"), dst.String(), "must not be the default route"))
		case seen[dst]:
			errs = append(errs, field.Duplicate(at.Child("destination"), dst.String()))
		}
		seen[r.Destination] = true
		if len(r.Via) == 0 {
			errs = append(errs, field.Required(at.Child("via"), "must hold at least one address of a cluster node"))
		}
		errs = append(errs, validateAddresses(r.Via, at.Child("via"))...)
		for j, via := range r.Via {
			if r.Destination.IsValid() && via.Is4() != r.Destination.Addr().Is4() {
				errs = append(errs, field.Invalid(at.Child("via").Index(j), via.String(), "must be of the same family as the destination"))
			}
		}
	}
	return errs
}

var (
	chainPrefix = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9_-]{0,11}$`)
	setPrefix   = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9_-]{0,15}$`)
)

func validateOwnership(o gateway.Ownership, at *field.Path) field.ErrorList {
	const (
		minMarkBits           = 6
		localTable, compat    = 255, 252 // 252 to 255 are compat, default, main and local
		mainPriority          = 32766
		staticProtocol, limit = 4, 255 // protocols up to static belong to the kernel and the administrator
	)
	var errs field.ErrorList
	if !chainPrefix.MatchString(o.ChainPrefix) {
		errs = append(errs, field.Invalid(at.Child("chainPrefix"), o.ChainPrefix, "must be 1 to 12 letters, digits, '-' and '_', beginning with a letter"))
	}
	if n := bits.OnesCount32(o.MarkMask); n < minMarkBits || o.MarkMask>>bits.TrailingZeros32(o.MarkMask) != 1<<n-1 {
		errs = append(errs, field.Invalid(at.Child("markMask"), fmt.Sprintf("%#x", o.MarkMask), fmt.Sprintf("must be at least %d adjacent bits, such as 0x1ff0", minMarkBits)))
	} else if last := o.Table(o.MaxUplinks()); o.RoutingTable < 1 || o.RoutingTable <= localTable && last >= compat {
		errs = append(errs, field.Invalid(at.Child("routingTable"), o.RoutingTable, fmt.Sprintf("must begin %d tables that are free; %d to %d are the system's", o.MaxUplinks(), compat, localTable)))
	}
	// The next priority is used too.
	if o.RulePriority < 1 || o.RulePriority+1 >= mainPriority {
		errs = append(errs, field.Invalid(at.Child("rulePriority"), o.RulePriority, fmt.Sprintf("must be between 1 and %d, before the main table's", mainPriority-2)))
	}
	if o.RouteProtocol <= staticProtocol || o.RouteProtocol > limit {
		errs = append(errs, field.Invalid(at.Child("routeProtocol"), o.RouteProtocol, fmt.Sprintf("must be between %d and %d, and no other program's", staticProtocol+1, limit)))
	}
	if !setPrefix.MatchString(o.SetPrefix) {
		errs = append(errs, field.Invalid(at.Child("setPrefix"), o.SetPrefix, "must be 1 to 16 letters, digits, '-' and '_', beginning with a letter"))
	}
	return errs
}
