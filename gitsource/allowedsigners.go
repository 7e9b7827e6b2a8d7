package gitsource

import (
	"bufio"
	"bytes"
	"strings"

	"golang.org/x/crypto/ssh"

	"github.com/tranship/tranship/spec"
)

// ReadAllowedSigners reads the SSH keys of an allowed_signers file, as
// ssh-keygen(1) describes it and git verify-commit uses it. Lines for other
// namespaces than Git's are left out. Certificate authorities and periods of
// validity are refused (ErrMisconfigured): to leave them out would allow more
// than the file does.
func ReadAllowedSigners(data []byte) ([]spec.TrustedKey, error) {
	keys := []spec.TrustedKey{}
	lines := bufio.NewScanner(bytes.NewReader(data))
	for n := 1; lines.Scan(); n++ {
		line := strings.TrimSpace(lines.Text())
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		principals, rest, _ := strings.Cut(line, " ")
		key, comment, options, _, err := ssh.ParseAuthorizedKey([]byte(rest))
		if err != nil {
			return nil, fail(ErrMisconfigured, nil, "cannot use line %d of the allowed signers: it is not \"principal [options] type key\"", n)
		}
		ours := true
		for _, o := range options {
			name, value, _ := strings.Cut(o, "=")
			if name != "namespaces" {
				return nil, fail(ErrMisconfigured, nil, "cannot use line %d of the allowed signers: option %s is not known here; write a line with the key alone", n, oneLine(name, 60))
			}
			ours = strings.Contains(","+strings.Trim(value, `"`)+",", ","+GitNamespace+",")
		}
		if ours {
			keys = append(keys, spec.TrustedKey{Name: principals, Owner: principals, SSH: strings.TrimSpace(string(ssh.MarshalAuthorizedKey(key))) + " " + comment})
		}
	}
	if err := lines.Err(); err != nil {
		return nil, fail(ErrMisconfigured, err, "cannot read the allowed signers")
	}
	if len(keys) == 0 {
		return nil, fail(ErrMisconfigured, nil, "cannot use the allowed signers: no line holds a key for Git")
	}
	return keys, nil
}
