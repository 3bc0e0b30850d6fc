// Package calc decides: from a Snapshot of the cluster's objects and what was observed of the host it computes the State that
// the data plane is to reach, and the Findings that tell why a Mapping is not, or only partly, in effect.
//
// It is pure: no clock, no I/O, no logging, no client. Equal inputs give equal outputs, in whatever order the objects came.
package calc
