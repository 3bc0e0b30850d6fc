// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package source

import (
	"errors"
	"fmt"
	"reflect"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
)

// An empty list from an authenticated server is valid: all objects were deleted. But client-go also takes objects of other
// kinds, or without a kind, for empty lists. Those are errors: the known objects stay, and the list is repeated.

// checkList returns an error if list is not a valid list of the resource.
func (r resource) checkList(list runtime.Object) error {
	if err := r.isA(list, r.list); err != nil {
		return err
	}
	header, err := meta.ListAccessor(list)
	if err != nil {
		return err
	}
	if header.GetResourceVersion() == "" {
		return fmt.Errorf("the list of %s has no resource version", r.Resource)
	}
	return meta.EachListItem(list, r.checkObject)
}

// checkEvent returns an error if a watch event is invalid. An error event is valid, except before the initial events are
// complete, where it replaces them.
func (r resource) checkEvent(event watch.Event, initial bool) error {
	switch event.Type {
	case watch.Error:
		if err := apierrors.FromObject(event.Object); initial || apierrors.HasStatusCause(err, watchDecoding) {
			return err
		}
		return nil
	case watch.Bookmark:
		return r.isA(event.Object, r.object)
	}
	return r.checkObject(event.Object)
}

func (r resource) checkObject(object runtime.Object) error {
	if err := r.isA(object, r.object); err != nil {
		return err
	}
	header, err := meta.Accessor(object)
	if err != nil {
		return err
	}
	if header.GetName() == "" || header.GetNamespace() == "" && !r.ClusterScoped {
		return fmt.Errorf("one of the %s has no name or no namespace", r.Resource)
	}
	return nil
}

func (r resource) isA(object, want runtime.Object) error {
	if got, want := reflect.TypeOf(object), reflect.TypeOf(want); got != want {
		return fmt.Errorf("the server answered with a %v to a request for %s", got, r.Resource)
	}
	return nil
}

// watchDecoding is the cause that client-go sets in the error event for data that it cannot decode.
const watchDecoding = metav1.CauseType("ClientWatchDecoding")

var errCutOff = errors.New("the watch ended within a second or before all initial events")

const (
	// healthyAfter is the time after which a watch without events counts as working.
	healthyAfter = 10 * time.Second
	// minWatchDuration is the minimum duration of a normal watch: a shorter one must not be reopened at once.
	minWatchDuration = time.Second
)

// checkedWatch ends with an error at the first invalid event. client-go would ignore the event and miss a change; after an
// error, it lists again.
type checkedWatch struct {
	of      watch.Interface
	events  chan watch.Event
	stopped chan struct{}
	stop    func()
}

// newCheckedWatch calls tell with the result of each check; tell reports whether the watch has failed. If initial is set,
// the watch must not end before the initial events are complete.
func newCheckedWatch(r resource, of watch.Interface, initial bool, tell func(error) bool) *checkedWatch {
	w := &checkedWatch{of: of, events: make(chan watch.Event), stopped: make(chan struct{})}
	w.stop = sync.OnceFunc(func() {
		close(w.stopped)
		of.Stop()
	})
	go w.pass(r, initial, tell)
	return w
}

func (w *checkedWatch) pass(r resource, initial bool, tell func(error) bool) {
	defer close(w.events)
	began := time.Now()
	healthy := time.NewTimer(healthyAfter)
	defer healthy.Stop()
	for {
		select {
		case <-healthy.C:
			tell(nil)
		case event, more := <-w.of.ResultChan():
			if !more {
				// Without an error client-go would reopen the watch at once, forever. With one it lists, which shows the
				// state of the server.
				if initial || time.Since(began) < minWatchDuration {
					w.fail(errCutOff)
				}
				return
			}
			err := r.checkEvent(event, initial)
			if (event.Type != watch.Error || err != nil) && tell(err) {
				w.fail(err)
				return
			}
			initial = initial && !endsInitialEvents(event)
			if !w.send(event) {
				return
			}
		}
	}
}

func (w *checkedWatch) fail(err error) {
	status := apierrors.NewInternalError(err).Status()
	w.send(watch.Event{Type: watch.Error, Object: &status})
}

// send reports whether the receiver still listens.
func (w *checkedWatch) send(event watch.Event) bool {
	select {
	case w.events <- event:
		return true
	case <-w.stopped:
		return false
	}
}

// ResultChan implements watch.Interface.
func (w *checkedWatch) ResultChan() <-chan watch.Event { return w.events }

// Stop implements watch.Interface.
func (w *checkedWatch) Stop() { w.stop() }

func endsInitialEvents(event watch.Event) bool {
	if event.Type != watch.Bookmark {
		return false
	}
	header, err := meta.Accessor(event.Object)
	return err == nil && header.GetAnnotations()[metav1.InitialEventsAnnotationKey] == "true"
}
