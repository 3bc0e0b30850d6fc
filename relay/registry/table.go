// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package registry

import (
	"fmt"
	"net/http"
	"net/url"

	"k8s.io/apimachinery/pkg/api/meta"
	internalversionscheme "k8s.io/apimachinery/pkg/apis/meta/internalversion/scheme"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/runtime"

	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/smartnat/smartnat/relay/watchcache"
)

// columns define how a kind is printed.
type columns struct {
	headers []metav1.TableColumnDefinition
	cells   func(watchcache.Object) ([]any, error)
}

func writeTable(w http.ResponseWriter, req *http.Request, r *resource, entries []*watchcache.Entry, version watchcache.Version) error {
	include, err := includeObject(req.URL.Query())
	if err != nil {
		return err
	}
	table := newTable(r.columns.headers, version)
	for _, e := range entries {
		row, err := r.columns.row(e.Object, include)
		if err != nil {
			return err
		}
		table.Rows = append(table.Rows, row)
	}
	text, err := jsonEncoding{}.object(table)
	if err != nil {
		return err
	}
	writeBody(w, req, http.StatusOK, runtime.ContentTypeJSON, text.bytes())
	return nil
}

func newTable(headers []metav1.TableColumnDefinition, version watchcache.Version) *metav1.Table {
	return &metav1.Table{
		TypeMeta:          metav1.TypeMeta{Kind: "Table", APIVersion: metav1.SchemeGroupVersion.String()},
		ListMeta:          metav1.ListMeta{ResourceVersion: version.String()},
		ColumnDefinitions: headers,
		Rows:              []metav1.TableRow{},
	}
}

func (c columns) row(obj watchcache.Object, include metav1.IncludeObjectPolicy) (metav1.TableRow, error) {
	cells, err := c.cells(obj)
	if err != nil {
		return metav1.TableRow{}, fmt.Errorf("printing %s/%s: %w", obj.GetNamespace(), obj.GetName(), err)
	}
	row := metav1.TableRow{Cells: cells}
	switch include {
	case metav1.IncludeObject:
		row.Object = runtime.RawExtension{Object: obj}
	case metav1.IncludeMetadata:
		row.Object = runtime.RawExtension{Object: partial(obj)}
	}
	return row, nil
}

func partial(obj metav1.Object) *metav1.PartialObjectMetadata {
	p := meta.AsPartialObjectMetadata(obj)
	p.TypeMeta = partialTypeMeta()
	return p
}

func partialTypeMeta() metav1.TypeMeta {
	return metav1.TypeMeta{Kind: "PartialObjectMetadata", APIVersion: metav1.SchemeGroupVersion.String()}
}

func includeObject(values url.Values) (metav1.IncludeObjectPolicy, error) {
	var options metav1.TableOptions
	if err := internalversionscheme.ParameterCodec.DecodeParameters(values, metav1.SchemeGroupVersion, &options); err != nil {
		return "", apierrors.NewBadRequest(err.Error())
	}
	if errs := validation.ValidateTableOptions(&options); len(errs) > 0 {
		return "", apierrors.NewBadRequest(fmt.Sprintf("Unable to convert to Table as requested: %v", errs[0]))
	}
	if options.IncludeObject == "" {
		return metav1.IncludeMetadata, nil
	}
	return options.IncludeObject, nil
}
