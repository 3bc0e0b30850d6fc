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

	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Validate returns why no API server would have stored the object, because of its names or because of characters in any text.
// The error is one line of printable text that does not name the object. For names, see
// https://kubernetes.io/docs/concepts/overview/working-with-objects/names. The name of a Service may start with a digit
// (KEP-5311). Validate does not check the rest of the object.
func Validate(object metav1.Object) error {
	i := indexOf(object)
	if i < 0 {
		return fmt.Errorf("a gateway reads no %T", object)
	}
	errs := []error{checkNamespace(&table[i], object.GetNamespace()), check("metadata.name", table[i].validName, object.GetName())}
	if table[i].check != nil {
		errs = append([]error{table[i].check(object)}, errs...)
	}
	if path, text, found := unprintable(reflect.ValueOf(object).Elem()); found {
		errs = append(errs, fmt.Errorf("%s: %s holds characters that are not printable", path, quoted(text)))
	}
	return oneLine(errors.Join(errs...))
}

func checkNamespace(kind *Kind, namespace string) error {
	switch {
	case !kind.ClusterScoped:
		return check("metadata.namespace", validation.ValidateNamespaceName, namespace)
	case namespace != "":
		return fmt.Errorf("metadata.namespace: %s: a %s is in no namespace", quoted(namespace), kind.Names.Kind)
	}
	return nil
}

// checkServiceName checks the name of the Service that an EndpointSlice belongs to.
func checkServiceName(object metav1.Object) error {
	service := object.GetLabels()[discoveryv1.LabelServiceName]
	if service == "" {
		return nil
	}
	return check("metadata.labels["+discoveryv1.LabelServiceName+"]", validation.NameIsDNSLabel, service)
}

// ID returns a readable name of an object: its kind, and its quoted namespace and name, truncated if they are too long.
func ID(object metav1.Object) string {
	kind := strings.TrimPrefix(fmt.Sprintf("%T", object), "*")
	return kind[strings.LastIndexByte(kind, '.')+1:] + " " + quoted(strings.TrimPrefix(object.GetNamespace()+"/"+object.GetName(), "/"))
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

// unprintable returns a text within the value that contains unprintable characters, and its path. It uses reflection, so it also
// covers fields that are added to the types of the API later. Paths are rarely needed and take longer than the texts, so each level
// adds its part to what was found below.
func unprintable(v reflect.Value) (where, text string, found bool) {
	switch v.Kind() {
	case reflect.String:
		return "", v.String(), !printable(v.String())
	case reflect.Pointer:
		if !v.IsNil() {
			return unprintable(v.Elem())
		}
	case reflect.Slice:
		for i := range v.Len() {
			if where, text, found = unprintable(v.Index(i)); found {
				return where, text, true
			}
		}
	case reflect.Map:
		for entries := v.MapRange(); entries.Next(); {
			if where, text, found = unprintable(entries.Key()); found {
				return where, text, true
			}
			if where, text, found = unprintable(entries.Value()); found {
				return where, text, true
			}
		}
	case reflect.Struct:
		if v.Type() == reflect.TypeFor[time.Time]() {
			return "", "", false
		}
		for i := range v.NumField() {
			if where, text, found = unprintable(v.Field(i)); found {
				name, _, _ := strings.Cut(v.Type().Field(i).Tag.Get("json"), ",")
				return strings.Trim(name+"."+where, "."), text, true
			}
		}
	}
	return "", "", false
}

func printable(text string) bool {
	return utf8.ValidString(text) && strings.IndexFunc(text, func(r rune) bool { return !unicode.IsPrint(r) }) < 0
}
