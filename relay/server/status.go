// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package server

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/spf13/pflag"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/client-go/tools/record"

	"github.com/smartnat/smartnat/apis/smartnat/conditions"
	"github.com/smartnat/smartnat/apis/smartnat/v1alpha1"
	"github.com/smartnat/smartnat/relay/cluster"
	"github.com/smartnat/smartnat/relay/registry"
	"github.com/smartnat/smartnat/relay/status"
)

// StatusOptions configure how the relay writes the status of Mappings.
type StatusOptions struct {
	// Write makes the relay write conditions into the status of Mappings.
	Write bool
	// Accept lets gateways report their status through the relay.
	Accept bool
	// Namespace is the namespace of the gateways' ServiceAccounts and Leases.
	Namespace string
	// Grants says which addresses need a PortGrant.
	Grants string
	// InstanceTimeout is the time after which a silent gateway no longer counts.
	InstanceTimeout time.Duration
}

const minInstanceTimeout = 3 * time.Minute

// DefaultStatusOptions matches the manifests.
func DefaultStatusOptions() StatusOptions {
	return StatusOptions{Write: true, Accept: true, Namespace: "smartnat", Grants: status.GrantsOpen, InstanceTimeout: 10 * time.Minute}
}

func (o *StatusOptions) addFlags(flags *pflag.FlagSet) {
	flags.BoolVar(&o.Write, "write-status", o.Write, "write conditions of Mappings and PortGrants, Events about Mappings, and the ConfigMap smartnat-grants of the admission policy")
	flags.BoolVar(&o.Accept, "accept-status", o.Accept, "let each gateway apply (server-side) its own entry in the status of Mappings; needs --write-status, which sums the entries up, and RBAC that allows it")
	flags.StringVar(&o.Namespace, "namespace", o.Namespace, "`namespace` of the ServiceAccounts of gateways and of the Leases that record their last contact")
	flags.StringVar(&o.Grants, "grants", o.Grants, "which addresses need a PortGrant: open (those that one covers), required (all) or report (none: gateways report what required would refuse); gateways have the same key")
	flags.DurationVar(&o.InstanceTimeout, "instance-timeout", o.InstanceTimeout, "how long the status of Mappings counts a gateway that is silent")
}

func (o *StatusOptions) validate() (errs []error) {
	if len(validation.IsDNS1123Label(o.Namespace)) > 0 {
		errs = append(errs, fmt.Errorf("--namespace: %q is not the name of a namespace", o.Namespace))
	}
	if modes := []string{status.GrantsOpen, status.GrantsReport, status.GrantsRequired}; !slices.Contains(modes, o.Grants) {
		errs = append(errs, fmt.Errorf("--grants: %q must be one of %s", o.Grants, strings.Join(modes, ", ")))
	}
	if o.InstanceTimeout < minInstanceTimeout {
		errs = append(errs, fmt.Errorf("--instance-timeout: %s is less than %s: gateways report once a minute", o.InstanceTimeout, minInstanceTimeout))
	}
	return errs
}

// countedMappings counts writes of status.
type countedMappings struct {
	status.Mappings
	metrics *metrics
}

func (c countedMappings) ApplyStatus(
	ctx context.Context, manager string, meta conditions.AppliedMetadata, applied v1alpha1.MappingStatus,
) (*v1alpha1.Mapping, error) {
	written, err := c.Mappings.ApplyStatus(ctx, manager, meta, applied)
	of, result := "conditions", "ok"
	if manager != v1alpha1.ConditionsFieldManager {
		of = "instances"
	}
	switch {
	case apierrors.IsConflict(err):
		result = "conflict" // often because another replica wrote first
	case err != nil:
		result = "error"
	}
	c.metrics.statusWrites.WithLabelValues(of, result).Inc()
	return written, err
}

// statusWriter writes conditions and Events about them, and what the admission policy knows about PortGrants.
type statusWriter struct {
	controller  *status.Controller
	table       *status.Table
	grants      *status.GrantWriter
	broadcaster record.EventBroadcaster
	events      func(namespace string) eventClient
}

func (o *StatusOptions) apply(c *Config, client *cluster.Client) {
	if !o.Write {
		return
	}
	leases := status.NewLeases(client.Leases(o.Namespace), o.Namespace, o.InstanceTimeout)
	mappings := countedMappings{status.NewMappings(func(namespace string) status.MappingClient { return client.Mappings(namespace) }), c.metrics}
	broadcaster := record.NewBroadcaster()
	c.Status = &statusWriter{
		controller: status.New(status.Options{
			Cache: c.Cache, Mappings: mappings, Leases: leases, Grants: o.Grants, InstanceTimeout: o.InstanceTimeout, Log: c.Log,
			Events:   func(namespace string) status.Events { return client.Events(namespace) },
			Recorder: broadcaster.NewRecorder(runtime.NewScheme(), corev1.EventSource{Component: status.Component}),
		}),
		table:       &status.Table{ConfigMaps: client.ConfigMaps(o.Namespace), Cache: c.Cache, Grants: o.Grants, Log: c.Log},
		grants:      &status.GrantWriter{PortGrants: client.PortGrants(), Cache: c.Cache, Grants: o.Grants, Log: c.Log},
		broadcaster: broadcaster,
		events:      func(namespace string) eventClient { return client.Events(namespace) },
	}
	if o.Accept {
		c.Reports = &status.Reports{Cache: c.Cache, Mappings: mappings, Heard: leases.Renew, Namespace: o.Namespace, Log: c.Log}
	}
}

// run writes until ctx ends. It does nothing if s is nil.
func (s *statusWriter) run(ctx context.Context) {
	if s == nil {
		return
	}
	s.broadcaster.StartRecordingToSink(eventSink{ctx, s.events})
	defer s.broadcaster.Shutdown()
	var running sync.WaitGroup
	running.Go(func() { s.table.Run(ctx) })
	running.Go(func() { s.grants.Run(ctx) })
	s.controller.Run(ctx)
	running.Wait()
}

// eventClient writes the Events of one namespace.
type eventClient interface {
	Create(ctx context.Context, event *corev1.Event, options metav1.CreateOptions) (*corev1.Event, error)
	Update(ctx context.Context, event *corev1.Event, options metav1.UpdateOptions) (*corev1.Event, error)
	Patch(ctx context.Context, name string, how types.PatchType, data []byte, options metav1.PatchOptions, subresources ...string) (*corev1.Event, error)
}

// eventSink is a record.EventSink that stops with ctx.
type eventSink struct {
	ctx context.Context
	in  func(namespace string) eventClient
}

func (s eventSink) Create(event *corev1.Event) (*corev1.Event, error) {
	return s.in(event.Namespace).Create(s.ctx, event, metav1.CreateOptions{})
}

func (s eventSink) Update(event *corev1.Event) (*corev1.Event, error) {
	return s.in(event.Namespace).Update(s.ctx, event, metav1.UpdateOptions{})
}

func (s eventSink) Patch(event *corev1.Event, data []byte) (*corev1.Event, error) {
	return s.in(event.Namespace).Patch(s.ctx, event.Name, types.StrategicMergePatchType, data, metav1.PatchOptions{})
}

// withStatusReports handles status reports of gateways, the only writes that the relay accepts.
func withStatusReports(next http.Handler, reports *status.Reports) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		if !reports.Takes(req) {
			next.ServeHTTP(w, req)
			return
		}
		if err := reports.Take(w, req); err != nil {
			registry.WriteError(w, req, err)
		}
	})
}
