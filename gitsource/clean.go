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
// then is it cut to its size, so that no secret is cut in two. note, if any, is
// given a copy of the record and how many values were taken out of it.
func clean[T any](r *Redactor, record *T, f form[T], note func(*T, int)) ([]byte, error) {
	data, err := f.encode(record)
	if err != nil {
		return nil, err
	}
	out, found := *record, 0 // the caller's stays as it is
	if r.Holds(data) {
		own, err := f.decode(data)
		if err != nil {
			return nil, err
		}
		found = cleanSentences(r, reflect.ValueOf(own).Elem())
		out = *own
	}
	if note != nil {
		note(&out, found)
	}
	return f.within(&out)
}

// sentences are the fields of records that hold text made by programs.
var sentences = map[string]bool{"Message": true, "Reason": true, "Cancel": true, "LastFailure": true, "Warnings": true, "Events": true, "Subject": true}

// cleanSentences says how many values it has taken out.
func cleanSentences(r *Redactor, v reflect.Value) (n int) {
	switch v.Kind() {
	case reflect.Pointer:
		if !v.IsNil() {
			n = cleanSentences(r, v.Elem())
		}
	case reflect.Slice:
		for i := range v.Len() {
			n += cleanSentences(r, v.Index(i))
		}
	case reflect.Struct:
		for i := range v.NumField() {
			f := v.Field(i)
			if !f.CanSet() {
				continue
			}
			if sentences[v.Type().Field(i).Name] {
				n += cleanText(r, f)
			} else {
				n += cleanSentences(r, f)
			}
		}
	}
	return n
}

func cleanText(r *Redactor, f reflect.Value) (n int) {
	switch {
	case f.Kind() == reflect.String:
		was := f.String()
		f.SetString(r.Known(was))
		n = replaced(was, f.String())
	case f.Kind() == reflect.Slice && f.Type().Elem().Kind() == reflect.String:
		for i := range f.Len() {
			n += cleanText(r, f.Index(i))
		}
	}
	return n
}
