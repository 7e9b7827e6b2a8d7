package main

import (
	"os"
	"strings"
	"testing"
)

// TestMutationsFitTheCode: a mutation that has nothing to break shows nothing.
func TestMutationsFitTheCode(t *testing.T) {
	for _, m := range mutations {
		text, err := os.ReadFile("../../" + m.file)
		if err != nil {
			t.Fatal(err)
		}
		if n := strings.Count(string(text), m.from); n != 1 {
			t.Errorf("without %q: %s has the text %d times, not once", m.rule, m.file, n)
		}
	}
}
