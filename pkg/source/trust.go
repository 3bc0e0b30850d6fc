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

// An empty list is the truth where the server proved who it is: somebody deleted all there was. Anything else that client-go
// would take for an empty list is not: another kind, or none, of which it finds no items. What is known stays, and is asked for again.

// checkList finds what is wrong with the answer to a list.
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

// checkEvent finds what is wrong with an event of a watch. An error is an event as any other, but not while all objects are due:
// there it is what was answered in their place.
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
	if header.GetName() == "" || header.GetNamespace() == "" {
		return fmt.Errorf("one of the %s has no name or no namespace", r.Resource)
	}
	return nil
}

func (r resource) isA(object, want runtime.Object) error {
	if got, want := reflect.TypeOf(object), reflect.TypeOf(want); got != want {
		return fmt.Errorf("the server answered with a %v when asked for %s", got, r.Resource)
	}
	return nil
}

// watchDecoding is the cause of the error that client-go makes of what it cannot read.
const watchDecoding = metav1.CauseType("ClientWatchDecoding")

var errCutOff = errors.New("the watch ended as soon as it had begun, or before all objects were told")

const (
	// settledAfter is how long a watch that brings nothing is taken for one that makes sense.
	settledAfter = 10 * time.Second
	// hasty is a watch that ends within this time: to begin another one at once makes no sense.
	hasty = time.Second
)

// checkedWatch ends with an error at the first event that makes no sense. client-go would pass over it, and never know what it
// had missed; after an error, it reads all again.
type checkedWatch struct {
	of      watch.Interface
	events  chan watch.Event
	stopped chan struct{}
	stop    func()
}

// newCheckedWatch tells of each event whether it made sense, and learns whether the watch has failed by that. Where initial is set,
// all objects are due before the watch may end.
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
	settled := time.NewTimer(settledAfter)
	defer settled.Stop()
	for {
		select {
		case <-settled.C:
			tell(nil)
		case event, more := <-w.of.ResultChan():
			if !more {
				// The list that client-go asks for now tells how it stands. Without an error it would watch again at once, for ever.
				if initial || time.Since(began) < hasty {
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

// send reports whether somebody still listens.
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
