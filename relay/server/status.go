// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package server

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/spf13/pflag"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/client-go/tools/events"

	"github.com/smartnat/smartnat/apis/smartnat/conditions"
	"github.com/smartnat/smartnat/apis/smartnat/v1alpha1"
	"github.com/smartnat/smartnat/generated/clientset/versioned/scheme"
	"github.com/smartnat/smartnat/relay/registry"
	"github.com/smartnat/smartnat/relay/status"
)

// StatusOptions say what the relay writes into the cluster.
type StatusOptions struct {
	// Write is whether the relay says in the status of Mappings what became of them.
	Write bool
	// Accept is whether gateways may report theirs through the relay.
	Accept bool
	// Namespace is where the ServiceAccounts of gateways and their Leases are.
	Namespace string
	// InstanceTimeout is how long a gateway that is not heard of is counted on.
	InstanceTimeout time.Duration
}

const minInstanceTimeout = 3 * time.Minute

// DefaultStatusOptions are those of the manifests.
func DefaultStatusOptions() StatusOptions {
	return StatusOptions{Write: true, Namespace: "smartnat", InstanceTimeout: 10 * time.Minute}
}

func (o *StatusOptions) addFlags(flags *pflag.FlagSet) {
	flags.BoolVar(&o.Write, "write-status", o.Write, "say in the status of Mappings and in Events what became of them")
	flags.BoolVar(&o.Accept, "accept-status", o.Accept, "let each gateway say, by server-side apply of its own entry in the status of Mappings, what it has in effect; RBAC says who may")
	flags.StringVar(&o.Namespace, "namespace", o.Namespace, "the `namespace` of the ServiceAccounts of gateways, where it is noted when they were last heard of")
	flags.DurationVar(&o.InstanceTimeout, "instance-timeout", o.InstanceTimeout, "how long the status of Mappings counts on a gateway that is not heard of")
}

func (o *StatusOptions) validate() (errs []error) {
	if len(validation.IsDNS1123Label(o.Namespace)) > 0 {
		errs = append(errs, fmt.Errorf("--namespace: %q is not the name of a namespace", o.Namespace))
	}
	if o.InstanceTimeout < minInstanceTimeout {
		errs = append(errs, fmt.Errorf("--instance-timeout: %s is less than %s: gateways are heard of once a minute", o.InstanceTimeout, minInstanceTimeout))
	}
	if o.Accept && !o.Write {
		errs = append(errs, errors.New("--accept-status: needs --write-status, or nobody would sum up what gateways say"))
	}
	return errs
}

// countedMappings count what is written.
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
		result = "conflict" // another relay was first, as often as not
	case err != nil:
		result = "error"
	}
	c.metrics.statusWrites.WithLabelValues(of, result).Inc()
	return written, err
}

// statusWriter writes conditions, and Events about them.
type statusWriter struct {
	controller  *status.Controller
	broadcaster events.EventBroadcaster
}

func (o *StatusOptions) apply(c *Config) {
	if !o.Write {
		return
	}
	leases := status.NewLeases(c.Upstream.Core, o.Namespace, o.InstanceTimeout)
	mappings := countedMappings{status.NewMappings(c.Upstream.SmartNat), c.metrics}
	broadcaster := events.NewBroadcaster(&events.EventSinkImpl{Interface: c.Upstream.Core.EventsV1()})
	c.Status = &statusWriter{
		controller: status.New(status.Options{
			Cache: c.Cache, Mappings: mappings, Leases: leases, InstanceTimeout: o.InstanceTimeout, Log: c.Log,
			Recorder: broadcaster.NewRecorder(scheme.Scheme, "smartnat-relay"),
		}),
		broadcaster: broadcaster,
	}
	if o.Accept {
		c.Reports = &status.Reports{Cache: c.Cache, Mappings: mappings, Heard: leases.Renew, Namespace: o.Namespace, Log: c.Log}
	}
}

// run writes until ctx ends. There may be nobody to do it.
func (s *statusWriter) run(ctx context.Context) error {
	if s == nil {
		return nil
	}
	if err := s.broadcaster.StartRecordingToSinkWithContext(ctx); err != nil {
		return fmt.Errorf("recording Events: %w", err)
	}
	defer s.broadcaster.Shutdown()
	s.controller.Run(ctx)
	return nil
}

// reported has the reports of gateways answered, the one thing that is no read.
func reported(next http.Handler, reports *status.Reports) http.Handler {
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
