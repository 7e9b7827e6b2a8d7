package main

import (
	"testing"
	"time"

	"github.com/tranship/tranship/gitsource"
	"github.com/tranship/tranship/spec"
)

func TestRememberingForgetsOldPlans(t *testing.T) {
	r := &remembering{}
	red := gitsource.NewRedactor(r.values)
	r.keep([]byte("our-own-token"))
	kept, plain := r.learn("shop", spec.Source, [][]byte{[]byte("Tr0ub4dor"), []byte("postgres"), []byte("x")})
	if kept != 1 || plain != 2 {
		t.Errorf("%d kept, %d plain", kept, plain)
	}
	r.learn("shop", spec.Target, [][]byte{[]byte("Correct-horse1")})
	const all = "our-own-token Tr0ub4dor Correct-horse1 postgres"
	if got := red.Known(all); got != "<redacted> <redacted> <redacted> postgres" {
		t.Error(got)
	}
	r.learn("shop", spec.Target, [][]byte{[]byte("n3w-password"), []byte("y")}) // it was rotated
	if shop, web := r.tooPlain("shop"), r.tooPlain("web"); shop != 3 || web != 0 {
		t.Errorf("%d and %d values are not looked for", shop, web)
	}
	if got := red.Known(all + " n3w-password"); got != "<redacted> <redacted> Correct-horse1 postgres <redacted>" {
		t.Error(got)
	}
	for i := range r.learned {
		r.learned[i].at = time.Now().Add(-2 * forgetAfter)
	}
	r.learn("web", spec.Source, nil)
	if got := red.Known(all); got != "<redacted> Tr0ub4dor Correct-horse1 postgres" {
		t.Error(got)
	}
}
