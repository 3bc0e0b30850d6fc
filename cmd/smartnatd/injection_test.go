// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package main

import (
	"encoding/json"
	"encoding/pem"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/smartnat/smartnat/apis/smartnat/v1alpha1"
	"github.com/smartnat/smartnat/pkg/objects"
	"github.com/smartnat/smartnat/pkg/snapshotfile"
	"github.com/smartnat/smartnat/pkg/testenv"
)

// injection ends the line of the rule that has it as a comment, and the table, and adds rules of its own to other tables.
const injection = "x\nCOMMIT\n*filter\n-I FORWARD 1 -j ACCEPT\nCOMMIT\n*nat\n#"

// hostileObjects returns a valid Mapping and one that no API server would store, each with its Service.
func hostileObjects() objects.Snapshot {
	var s objects.Snapshot
	for i, name := range []string{"echo", injection} {
		meta := metav1.ObjectMeta{Namespace: "default", Name: name, ResourceVersion: "5"}
		s.Mappings = append(s.Mappings, &v1alpha1.Mapping{ObjectMeta: meta, Spec: v1alpha1.MappingSpec{
			Addresses: []string{"10.237.94.10"}, ServiceName: "echo", Ports: []v1alpha1.MappingPort{{Port: int32(80 + i)}},
		}})
		s.Services = append(s.Services, &corev1.Service{ObjectMeta: meta, Spec: corev1.ServiceSpec{
			ClusterIP: "10.96.0.10", ClusterIPs: []string{"10.96.0.10"}, Ports: []corev1.ServicePort{{Port: int32(80 + i)}},
		}})
	}
	return s
}

// newHostileRelay serves lists of these objects, and watches without events.
func newHostileRelay(t *testing.T) *httptest.Server {
	t.Helper()
	objects := hostileObjects()
	listMeta := metav1.ListMeta{ResourceVersion: "7"}
	mappings := v1alpha1.MappingList{TypeMeta: metav1.TypeMeta{Kind: "MappingList", APIVersion: v1alpha1.SchemeGroupVersion.String()}, ListMeta: listMeta}
	for _, m := range objects.Mappings {
		mappings.Items = append(mappings.Items, *m)
	}
	services := corev1.ServiceList{TypeMeta: metav1.TypeMeta{Kind: "ServiceList", APIVersion: "v1"}, ListMeta: listMeta}
	for _, o := range objects.Services {
		services.Items = append(services.Items, *o)
	}
	slices := discoveryv1.EndpointSliceList{TypeMeta: metav1.TypeMeta{Kind: "EndpointSliceList", APIVersion: "discovery.k8s.io/v1"}, ListMeta: listMeta}
	grants := v1alpha1.PortGrantList{TypeMeta: metav1.TypeMeta{Kind: "PortGrantList", APIVersion: v1alpha1.SchemeGroupVersion.String()}, ListMeta: listMeta}
	namespaces := corev1.NamespaceList{TypeMeta: metav1.TypeMeta{Kind: "NamespaceList", APIVersion: "v1"}, ListMeta: listMeta}
	lists := map[string]any{
		"mappings": mappings, "services": services, "endpointslices": slices, "portgrants": grants, "namespaces": namespaces,
	}
	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		switch {
		case r.URL.Query().Get("sendInitialEvents") != "":
			w.WriteHeader(http.StatusUnprocessableEntity)
			_ = json.NewEncoder(w).Encode(metav1.Status{
				TypeMeta: metav1.TypeMeta{Kind: "Status", APIVersion: "v1"}, Status: metav1.StatusFailure,
				Code: http.StatusUnprocessableEntity, Reason: metav1.StatusReasonInvalid,
			})
		case r.URL.Query().Get("watch") != "":
			w.WriteHeader(http.StatusOK)
			_ = http.NewResponseController(w).Flush()
			<-r.Context().Done()
		default:
			_ = json.NewEncoder(w).Encode(lists[r.URL.Path[strings.LastIndexByte(r.URL.Path, '/')+1:]])
		}
	}))
	t.Cleanup(func() {
		server.CloseClientConnections()
		server.Close()
	})
	return server
}

// relayConfig changes the config of newHost to a relay.
func relayConfig(t *testing.T, configFile string, relay *httptest.Server) {
	t.Helper()
	dir := filepath.Dir(configFile)
	for name, text := range map[string]string{
		"ca.crt": string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: relay.Certificate().Raw})), "token": "secret",
		filepath.Base(configFile): fmt.Sprintf("instance: gw1\nsource: {relay: {servers: [%q], caFile: %s/ca.crt, tokenFile: %[2]s/token}}\n"+
			"uplinks: [{interface: eth1}]\nstateDir: %[2]s/state\nruntimeDir: %[2]s/run\n", relay.URL, dir),
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// expectNoInjection checks that the valid Mapping is in effect, and nothing of the hostile one.
func expectNoInjection(t *testing.T, program *process) {
	t.Helper()
	inEffect := output(t, "iptables-save")
	if !strings.Contains(inEffect, `--comment "default/echo"`) {
		t.Errorf("the valid Mapping is not in effect:\n%s", inEffect)
	}
	if strings.Contains(inEffect, "-A FORWARD -j ACCEPT") || strings.Contains(inEffect, "--dport 81 ") || strings.Contains(inEffect, "default/x") {
		t.Errorf("the kernel has\n%s", inEffect)
	}
	program.awaitLog(t, "rejected invalid object", 2) // the Mapping and its Service
	if log := program.log.String(); strings.Contains(log, "\nCOMMIT") {
		t.Errorf("an object broke out of its line:\n%s", log)
	}
	if code, body := getInside(t, "/metrics"); code != http.StatusOK || !strings.Contains(body, "\nsmartnat_source_objects_rejected_total 2\n") {
		t.Errorf("no count of 2 in\n%s", body)
	}
}

// TestInjectionByName checks a hostile relay that serves a Mapping whose name is a set of rules. That Mapping is neither
// programmed nor saved, nor read from a file that has it; all other objects work. Rules of other programs that look the same
// stop neither smartnatd nor cleanup.
func TestInjectionByName(t *testing.T) {
	testenv.RequireTool(t, "iptables")
	configFile := newHost(t)
	relay := newHostileRelay(t)
	relayConfig(t, configFile, relay)
	output(t, "iptables", "-A", "INPUT", "-p", "tcp", "--dport", "7", "-m", "comment", "--comment", injection, "-j", "ACCEPT")
	before := programmed(t)

	systemd := supervise(t)
	program := startProgram(t, systemd, configFile)
	awaitWord(t, systemd, "READY=1", 1)
	expectNoInjection(t, program)
	program.end(t)
	dir := filepath.Dir(configFile)
	file := filepath.Join(dir, "state", "objects.jsonl")
	if saved := readFile(t, file); !strings.Contains(saved, `"name":"echo"`) || strings.Contains(saved, "COMMIT") {
		t.Errorf("saved\n%s", saved)
	}
	cleanup(t, configFile)

	relay.CloseClientConnections()
	relay.Close()
	saved := snapshotfile.Saved{Snapshot: hostileObjects(), Origin: []string{relay.URL}, At: time.Now()}
	if err := snapshotfile.NewFile(file, filepath.Join(dir, "run", "objects.outdated")).Save(saved); err != nil {
		t.Fatal(err)
	}
	systemd = supervise(t)
	program = startProgram(t, systemd, configFile)
	awaitWord(t, systemd, "READY=1", 1)
	for deadline := time.Now().Add(30 * time.Second); !strings.Contains(output(t, "iptables-save"), "default/echo"); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the saved objects are not in effect after 30 s")
		}
	}
	expectNoInjection(t, program)
	program.end(t)
	cleanup(t, configFile)
	left := func(text string) string {
		return text[strings.Index(text, "-A INPUT"):strings.Index(text, "COMMIT\n*")]
	}
	if got := output(t, "iptables-save"); strings.Contains(got, "SMARTNAT") || !strings.Contains(got, left(before)) {
		t.Errorf("after the cleanup\n%s\nbefore the start\n%s", got, before)
	}
}

// cleanup runs the command as a process in the network namespace of the test.
func cleanup(t *testing.T, configFile string) {
	t.Helper()
	executable, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	command := exec.CommandContext(t.Context(), executable, "cleanup", "--config", configFile)
	command.Env = append(os.Environ(), asProgram+"=1")
	if out, err := command.CombinedOutput(); err != nil || !strings.HasPrefix(string(out), "removed: ") {
		t.Fatalf("cleanup: %v: %s", err, out)
	}
}
