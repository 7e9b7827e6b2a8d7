package gitsource

import (
	"reflect"
)

// clean encodes a record. Where it holds a known secret value, that is taken
// out of its sentences first; names and paths come from manifests and clusters
// and are left as they are, because a changed name would be another object.
func clean[T any](r *Redactor, record *T, encode func(*T) ([]byte, error), decode func([]byte) (*T, error)) ([]byte, error) {
	data, err := encode(record)
	if err != nil || !r.Holds(data) {
		return data, err
	}
	dup, err := decode(data) // the caller's record stays as it is
	if err != nil {
		return nil, err
	}
	cleanSentences(r, reflect.ValueOf(dup).Elem())
	return encode(dup)
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
