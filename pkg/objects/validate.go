// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package objects

import (
	"errors"
	"fmt"
	"reflect"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/smartnat/smartnat/apis/smartnat/v1alpha1"
)

// Validate returns why no API server would have stored the object, because of its names or because of characters in any text.
// The error is one line of printable text that does not name the object. For names, see
// https://kubernetes.io/docs/concepts/overview/working-with-objects/names. The name of a Service may start with a digit
// (KEP-5311). Validate does not check the rest of the object.
func Validate(object metav1.Object) error {
	var errs []error
	name := validation.NameIsDNSSubdomain
	switch o := object.(type) {
	case *v1alpha1.Mapping:
	case *corev1.Service:
		name = validation.NameIsDNSLabel
	case *discoveryv1.EndpointSlice:
		if service, found := o.Labels[discoveryv1.LabelServiceName]; found && service != "" {
			errs = append(errs, check("metadata.labels["+discoveryv1.LabelServiceName+"]", validation.NameIsDNSLabel, service))
		}
	default:
		return fmt.Errorf("a gateway reads no %T", object)
	}
	errs = append(errs,
		check("metadata.namespace", validation.ValidateNamespaceName, object.GetNamespace()),
		check("metadata.name", name, object.GetName()))
	if path, text, found := unprintable(reflect.ValueOf(object).Elem(), ""); found {
		errs = append(errs, fmt.Errorf("%s: %s holds characters that are not printable", path, quoted(text)))
	}
	return oneLine(errors.Join(errs...))
}

// ID returns a readable name of an object: its kind, and its quoted namespace and name, truncated if they are too long.
func ID(object metav1.Object) string {
	kind := strings.TrimPrefix(fmt.Sprintf("%T", object), "*")
	return kind[strings.LastIndexByte(kind, '.')+1:] + " " + quoted(object.GetNamespace()+"/"+object.GetName())
}

func check(field string, valid validation.ValidateNameFunc, name string) error {
	if wrong := valid(name, false); len(wrong) > 0 {
		return fmt.Errorf("%s: %s: %s", field, quoted(name), strings.Join(wrong, ", "))
	}
	return nil
}

// quoted returns any text in at most about 400 printable bytes. The longest name and namespace have 317.
func quoted(text string) string {
	const most = 320
	if len(text) > most {
		return fmt.Sprintf("%+.*q...", most/4, text)
	}
	return fmt.Sprintf("%+q", text)
}

func oneLine(err error) error {
	if err == nil {
		return nil
	}
	return errors.New(strings.ReplaceAll(err.Error(), "\n", "; "))
}

// unprintable returns a text within the value that contains unprintable characters. It uses reflection, so it also covers
// fields that are added to the types of the API later.
func unprintable(v reflect.Value, path string) (where, text string, found bool) {
	switch v.Kind() {
	case reflect.String:
		return path, v.String(), !printable(v.String())
	case reflect.Pointer:
		if !v.IsNil() {
			return unprintable(v.Elem(), path)
		}
	case reflect.Slice:
		for i := range v.Len() {
			if where, text, found = unprintable(v.Index(i), path); found {
				return where, text, true
			}
		}
	case reflect.Map:
		for entries := v.MapRange(); entries.Next(); {
			if where, text, found = unprintable(entries.Key(), path); found {
				return where, text, true
			}
			if where, text, found = unprintable(entries.Value(), path); found {
				return where, text, true
			}
		}
	case reflect.Struct:
		if v.Type() == reflect.TypeFor[time.Time]() {
			return "", "", false
		}
		for i := range v.NumField() {
			field := v.Type().Field(i)
			name, _, _ := strings.Cut(field.Tag.Get("json"), ",")
			if where, text, found = unprintable(v.Field(i), strings.Trim(path+"."+name, ".")); found {
				return where, text, true
			}
		}
	}
	return "", "", false
}

func printable(text string) bool {
	return utf8.ValidString(text) && strings.IndexFunc(text, func(r rune) bool { return !unicode.IsPrint(r) }) < 0
}
