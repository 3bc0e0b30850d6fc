// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package config

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/go-viper/mapstructure/v2"
	"github.com/spf13/viper"
	"go.yaml.in/yaml/v3"

	"github.com/smartnat/smartnat/pkg/gateway"
)

const envPrefix = "SMARTNAT_"

// document is the file as written.
type document struct {
	Config  `mapstructure:",squash"`
	Uplinks []uplink
}

type uplink struct {
	Uplink  `mapstructure:",squash"`
	Gateway netip.Addr
}

// Default returns the meaning of an empty config file, except for Source, which has no default.
func Default() Config {
	return Config{
		Masquerade: true,
		// Ports below 1024 are excluded: the kernel has few of them for clients that use one, such as syslog's 514.
		MasqueradePorts: SourcePorts{gateway.PortRange{First: 1024, Last: 65535}},

		MaxPortsPerMapping: 32768, MaxPortsPerNamespace: 65536,
		MaxRulesPerMapping: 32768, MaxRulesPerNamespace: 131072,
		ReservedPorts: []ReservedPorts{
			{Protocol: gateway.TCP, Ports: gateway.Port(22)},
			{Protocol: gateway.TCP, Ports: gateway.Port(179)},
		},

		Resync:     5 * time.Minute,
		StateDir:   "/var/lib/smartnat",
		RuntimeDir: "/run/smartnat",

		StartTimeout: 30 * time.Second,

		Grants:    GrantsOpen,
		IPv6:      true,
		Dataplane: DataplaneAuto,
		Flowtable: FlowtableAuto, EndpointChoice: ChoiceRandom,
		IPTables:  IPTables{Variant: VariantAuto, LockTimeout: 5 * time.Second},
		Ownership: gateway.DefaultOwnership(),
		Log:       Log{Level: "info", Format: "text"},
		Metrics:   Metrics{Address: "127.0.0.1:9470"},
		FlowLog:   FlowLog{MaxMegabytes: 64},
		Announce:  Announce{File: "/run/smartnat-announce/bird.conf", Socket: "/run/bird/bird.ctl"},
		HA:        HA{SyncPort: 3780, Priority: 100, AdvertInterval: 100 * time.Millisecond, VirtualRouterID: 51},
	}
}

// Load reads the file, applies the environment and validates the result.
func Load(path string) (Config, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return Config{}, fmt.Errorf("reading the config: %w", err)
	}
	return parse(path, text, os.Getenv)
}

func parse(path string, text []byte, getenv func(string) string) (Config, error) {
	root, err := parseYAML(text)
	if err != nil {
		return Config{}, fmt.Errorf("%s: %w", path, err)
	}
	l := &loader{file: path, lines: map[string]int{}, getenv: getenv}
	l.checkKeys(root, reflect.TypeFor[document](), "")

	v := viper.New()
	v.SetConfigType("yaml")
	if err := v.ReadConfig(bytes.NewReader(text)); err != nil {
		return Config{}, cmp.Or(l.err(), fmt.Errorf("%s: %w", path, err))
	}
	l.checkRenamedVariables()
	for _, key := range leafKeys(reflect.TypeFor[document](), "") {
		if value := getenv(variable(key.name)); value != "" {
			v.Set(key.name, value)
			l.checkVariable(key, value)
		}
	}
	doc := document{Config: Default()}
	if v.IsSet("reservedPorts") { // a list replaces the default; Unmarshal would merge them
		doc.ReservedPorts = nil
	}
	if err := v.Unmarshal(&doc, viper.DecodeHook(l.decodeText)); err != nil {
		l.addDecodeErrors(err)
	}
	// viper drops keys that hold nothing.
	if doc.Source.Kubeconfig == nil && holdsNothing(root, "source", "kubeconfig") {
		doc.Source.Kubeconfig = &Kubeconfig{}
	}
	cfg := doc.Config
	for i, u := range doc.Uplinks {
		if u.Gateway.IsValid() && u.Gateways != nil {
			l.add(fmt.Sprintf("uplinks[%d].gateway", i), "must not be set together with gateways")
		} else if u.Gateway.IsValid() {
			u.Gateways = []netip.Addr{u.Gateway}
		}
		cfg.Uplinks = append(cfg.Uplinks, u.Uplink)
	}
	if cfg.Instance == "" {
		cfg.Instance, cfg.InstanceFromHost = hostName(), true
	}
	cfg.Node = cmp.Or(cfg.Node, cfg.Instance)
	// After a decode error the config has a default value, whose validation would only add noise.
	if len(l.problems) == 0 {
		for _, err := range cfg.validate() {
			l.add(err.Field, err.ErrorBody())
		}
		cfg.deriveHA()
	}
	return cfg, l.err()
}

// holdsNothing reports whether the value at a path of keys is {}. The value null means that the key is not set.
func holdsNothing(node *yaml.Node, path ...string) bool {
	for _, name := range path {
		var value *yaml.Node
		for i := 0; node != nil && node.Kind == yaml.MappingNode && i+1 < len(node.Content); i += 2 {
			if node.Content[i].Value == name {
				value = node.Content[i+1]
			}
		}
		node = value
	}
	return node != nil && node.Kind == yaml.MappingNode && len(node.Content) == 0
}

// parseYAML returns the root of the only document, or nil if there is none.
func parseYAML(text []byte) (*yaml.Node, error) {
	decoder := yaml.NewDecoder(bytes.NewReader(text))
	var doc, second yaml.Node
	if err := decoder.Decode(&doc); errors.Is(err, io.EOF) {
		return nil, nil
	} else if err != nil {
		return nil, err
	}
	if err := decoder.Decode(&second); !errors.Is(err, io.EOF) {
		return nil, errors.Join(errors.New("must hold one YAML document, not several"), err)
	}
	return doc.Content[0], nil
}

// hostName returns the host name in the form of the API, which only accepts lower case.
func hostName() string {
	name, err := os.Hostname()
	if err != nil {
		return ""
	}
	return strings.ToLower(name)
}

// decodeText decodes the types that mapstructure does not know. It is strict where mapstructure would guess: a bare number is
// no duration.
func (l *loader) decodeText(_, to reflect.Type, data any) (any, error) {
	text, isText := data.(string)
	switch {
	case to == reflect.TypeFor[time.Duration]():
		d, err := time.ParseDuration(fmt.Sprint(data))
		return d, want(err, data, "a duration such as 30s or 5m")
	case to == reflect.TypeFor[SourcePorts]():
		var ports SourcePorts
		err := ports.UnmarshalText([]byte(fmt.Sprint(data)))
		return ports, want(err, data, "a range of ports such as 1024-65535, or "+keepSourcePorts)
	case to == reflect.TypeFor[Preempt]():
		var preempt Preempt
		err := preempt.UnmarshalText([]byte(fmt.Sprint(data)))
		return preempt, want(err, data, fmt.Sprintf("%s, or %sa time from %s to %s, such as %[2]s1m", preemptNever, preemptAfter, minPreempt, maxPreempt))
	case to == reflect.TypeFor[HelperPort]():
		var port HelperPort
		err := port.UnmarshalText([]byte(fmt.Sprint(data)))
		return port, want(err, data, "a port from 1 to 65535")
	case !isText:
		return data, nil
	case to == reflect.TypeFor[netip.Addr]():
		addr, err := netip.ParseAddr(text)
		return addr, want(err, data, "an IP address such as 198.51.100.1")
	case to == reflect.TypeFor[netip.Prefix]():
		prefix, err := netip.ParsePrefix(text)
		return prefix, want(err, data, "a network such as 10.96.0.0/16")
	case to == reflect.TypeFor[ReservedPorts]():
		var ports ReservedPorts
		return ports, want(ports.UnmarshalText([]byte(text)), data, "ports of a protocol such as 22/tcp or 5000-5010/udp")
	case to.Kind() == reflect.Slice:
		return splitList(text, to.Elem())
	case to.Kind() == reflect.Bool:
		b, err := strconv.ParseBool(text)
		return b, want(err, data, "true or false")
	case to.Kind() == reflect.Int:
		n, err := strconv.ParseInt(text, 0, 0)
		return n, want(err, data, "a number")
	case to.Kind() == reflect.Uint32:
		n, err := strconv.ParseUint(text, 0, 32)
		return n, want(err, data, "a number of 32 bits such as 0x1ff0")
	}
	return data, nil
}

// checkVariable finds unknown keys in a variable that holds YAML. decodeText reports invalid YAML.
func (l *loader) checkVariable(k key, value string) {
	if k.typ.Kind() != reflect.Slice || !isGroup(k.typ.Elem()) {
		return
	}
	if root, err := parseYAML([]byte(value)); err == nil {
		l.checkKeys(root, k.typ, k.name)
	}
}

func want(err error, got any, what string) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%q: must be %s", fmt.Sprint(got), what)
}

// splitList splits the text of a variable by commas, or as YAML if necessary.
func splitList(text string, elem reflect.Type) ([]any, error) {
	var list []any
	if isGroup(elem) || strings.HasPrefix(text, "[") {
		err := yaml.Unmarshal([]byte(text), &list)
		return list, want(err, text, "a list in YAML such as [{…}, {…}]")
	}
	for part := range strings.SplitSeq(text, ",") {
		list = append(list, strings.TrimSpace(part))
	}
	return list, nil
}

// addDecodeErrors adds the leaves of the error tree of mapstructure.
func (l *loader) addDecodeErrors(err error) {
	switch err := err.(type) { //nolint:errorlint // the tree itself is walked, level by level
	case interface{ Unwrap() []error }:
		for _, err := range err.Unwrap() {
			l.addDecodeErrors(err)
		}
	case *mapstructure.DecodeError:
		// Each level names the value of a list; the innermost one is exact.
		if inner := new(mapstructure.DecodeError); errors.As(err.Unwrap(), &inner) {
			l.addDecodeErrors(err.Unwrap())
		} else {
			l.add(spell(err.Name()), err.Unwrap().Error())
		}
	case interface{ Unwrap() error }:
		l.addDecodeErrors(err.Unwrap())
	default:
		l.add("", err.Error())
	}
}

// loader collects the problems of one file.
type loader struct {
	file string
	// lines are the lines of keys, by path in lower case.
	lines    map[string]int
	getenv   func(string) string
	problems []problem
}

type problem struct {
	path, text string
	// line is 0 for a variable.
	line int
}

// add keeps the first problem of a key, because further ones are mostly its consequences.
func (l *loader) add(path, text string) {
	if slices.ContainsFunc(l.problems, func(p problem) bool { return p.path == path }) {
		return
	}
	place, line := l.place(path)
	if path != "" {
		place += ": " + path
	}
	l.problems = append(l.problems, problem{path: path, text: place + ": " + text, line: line})
}

// place returns the origin of a value: the variable, or the line of the key or of its nearest parent.
func (l *loader) place(path string) (string, int) {
	leaf, _, _ := strings.Cut(path, "[")
	if name := variable(leaf); leaf != "" && l.getenv(name) != "" {
		return name, 0
	}
	for ; path != ""; path = path[:max(0, strings.LastIndexAny(path, ".["))] {
		if line, ok := l.lines[strings.ToLower(path)]; ok {
			return fmt.Sprintf("%s:%d", l.file, line), line
		}
	}
	return l.file, 0
}

func (l *loader) err() error {
	slices.SortStableFunc(l.problems, func(a, b problem) int { return a.line - b.line })
	var errs []error
	for _, p := range l.problems {
		errs = append(errs, errors.New(p.text))
	}
	return errors.Join(errs...)
}
