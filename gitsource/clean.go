package gitsource

import (
	"reflect"

	"github.com/tranship/tranship/spec"
)

// form is how a kind of record is written: whole, and within its size.
type form[T any] struct {
	encode, within func(*T) ([]byte, error)
	decode         func([]byte) (*T, error)
}

var (
	runForm    = form[spec.Run]{spec.EncodeRun, spec.CapRun, spec.DecodeRun}
	statusForm = form[spec.PlanStatus]{spec.EncodeStatus, spec.CapStatus, spec.DecodeStatus}
	daemonForm = form[spec.DaemonStatus]{spec.EncodeDaemonStatus, spec.EncodeDaemonStatus, spec.DecodeDaemonStatus}
)

// clean encodes a record. Where it holds a known secret value, that is taken
// out of its sentences first; names and paths come from manifests and clusters
// and are left as they are, because a changed name would be another object. Only
// then is it cut to its size, so that no secret is cut in two.
func clean[T any](r *Redactor, record *T, f form[T]) ([]byte, error) {
	data, err := f.encode(record)
	if err != nil {
		return nil, err
	}
	if r.Holds(data) {
		if record, err = f.decode(data); err != nil { // the caller's stays as it is
			return nil, err
		}
		cleanSentences(r, reflect.ValueOf(record).Elem())
	}
	return f.within(record)
}

// sentences are the fields of records that hold text made by programs.
var sentences = map[string]bool{"Message": true, "Reason": true, "Cancel": true, "LastFailure": true, "Warnings": true, "Subject": true}

func cleanSentences(r *Redactor, v reflect.Value) {
	switch v.Kind() {
	case reflect.Pointer:
		if !v.IsNil() {
			cleanSentences(r, v.Elem())
		}
	case reflect.Slice:
		for i := range v.Len() {
			cleanSentences(r, v.Index(i))
		}
	case reflect.Struct:
		for i := range v.NumField() {
			f := v.Field(i)
			if !f.CanSet() {
				continue
			}
			if sentences[v.Type().Field(i).Name] {
				cleanText(r, f)
			} else {
				cleanSentences(r, f)
			}
		}
	}
}

func cleanText(r *Redactor, f reflect.Value) {
	switch {
	case f.Kind() == reflect.String:
		f.SetString(r.Known(f.String()))
	case f.Kind() == reflect.Slice && f.Type().Elem().Kind() == reflect.String:
		for i := range f.Len() {
			f.Index(i).SetString(r.Known(f.Index(i).String()))
		}
	}
}
