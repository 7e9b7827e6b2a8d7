package spec

import (
	"fmt"
	"reflect"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"pgregory.net/rapid"
)

// fill sets every field of a value to something, lists to n entries.
func fill(v reflect.Value, n int) {
	seq := 0
	fillWith(v, func(v reflect.Value) {
		seq++
		switch v.Kind() {
		case reflect.String:
			v.SetString(fmt.Sprintf("s%d", seq))
		case reflect.Bool:
			v.SetBool(true)
		case reflect.Float64:
			v.SetFloat(float64(seq) + 0.5)
		default:
			v.SetInt(int64(seq))
		}
	}, func() time.Time { seq++; return time.Unix(int64(1767225600+seq), 0).UTC() }, func() int { return n })
}

// draw sets every field of a value to something random; lists may be empty.
func draw(t *rapid.T, v reflect.Value) {
	text := rapid.OneOf(rapid.StringN(0, 6, -1), rapid.SampledFrom([]string{"", "no", "~", "null", "0x1f", "1_000", "1e3", "- a", "a: b", "# c", " x ", "a\nb\n", "\ttab", "2026-01-01", "<<", "=", "!!x", "é\u0085", "\u2028", "true", "\"", "'", "0o7", "%", "---\nx", ".inf"}))
	fillWith(v, func(v reflect.Value) {
		switch v.Kind() {
		case reflect.String:
			v.SetString(text.Draw(t, "text"))
		case reflect.Bool:
			v.SetBool(rapid.Bool().Draw(t, "bool"))
		case reflect.Float64:
			v.SetFloat(rapid.Float64Range(-1e12, 1e12).Draw(t, "float"))
		case reflect.Int32:
			v.SetInt(int64(rapid.Int32().Draw(t, "int32")))
		default:
			v.SetInt(rapid.Int64().Draw(t, "int"))
		}
	}, func() time.Time {
		return time.Unix(rapid.Int64Range(0, 4e9).Draw(t, "time"), 0).UTC()
	}, func() int { return rapid.SampledFrom([]int{0, 0, 1, 2}).Draw(t, "length") })
}

func fillWith(v reflect.Value, scalar func(reflect.Value), now func() time.Time, length func() int) {
	if !v.CanSet() {
		return
	}
	switch p := v.Addr().Interface().(type) {
	case *metav1.Time:
		p.Time = now()
		return
	case *metav1.MicroTime:
		p.Time = now().Add(123456 * time.Microsecond)
		return
	case *metav1.Duration:
		p.Duration = time.Duration(now().Unix()) * time.Second
		return
	}
	each := func(v reflect.Value) { fillWith(v, scalar, now, length) }
	switch v.Kind() {
	case reflect.Struct:
		for i := range v.NumField() {
			each(v.Field(i))
		}
	case reflect.Pointer:
		if length() > 0 {
			v.Set(reflect.New(v.Type().Elem()))
			each(v.Elem())
		}
	case reflect.Slice:
		if n := length(); n > 0 {
			v.Set(reflect.MakeSlice(v.Type(), n, n))
			for i := range n {
				each(v.Index(i))
			}
		}
	case reflect.Map:
		if n := length(); n > 0 {
			v.Set(reflect.MakeMap(v.Type()))
			for range n {
				key, item := reflect.New(v.Type().Key()).Elem(), reflect.New(v.Type().Elem()).Elem()
				each(key)
				each(item)
				v.SetMapIndex(key, item)
			}
		}
	default:
		scalar(v)
	}
}
