package gitsource

import (
	"errors"
	"strings"
	"testing"
)

func TestAllowedSigners(t *testing.T) {
	one, two := sshSigner(t, "one", "One"), sshSigner(t, "two", "Two")
	keys, err := ReadAllowedSigners([]byte("# people\n\nada@example.com,ada " + one.SSH + "eve namespaces=\"file\" " + one.SSH + "bot@example.com namespaces=\"git,file\" " + two.SSH))
	must(t, err)
	if len(keys) != 2 || keys[0].Name != "ada@example.com,ada" || keys[1].Name != "bot@example.com" {
		t.Fatalf("%+v", keys)
	}
	if _, err := NewKeyring(keys, nil); err != nil {
		t.Error(err)
	}
	for text, want := range map[string]string{
		"":                                     "no line holds a key",
		"ada ssh-ed25519 x":                    "line 1",
		"\nada cert-authority " + one.SSH:      "line 2 of the allowed signers: option cert-authority",
		"ada valid-before=\"2020\" " + one.SSH: "option valid-before",
	} {
		if _, err := ReadAllowedSigners([]byte(text)); !errors.Is(err, ErrMisconfigured) || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v", text, err)
		}
	}
}
