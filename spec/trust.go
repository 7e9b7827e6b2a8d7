package spec

// TrustedKey is a public key that a signature may count for. It lives in the
// daemon's own configuration only.
type TrustedKey struct {
	// Name is what policies and records call the key.
	Name string `json:"name"`
	// Owner is the person who holds it; several keys of one owner count once.
	Owner string `json:"owner"`
	// OpenPGP is an armored public key, SSH one line as in an .pub file; one of the two.
	OpenPGP string `json:"openPGP,omitempty"`
	SSH     string `json:"ssh,omitempty"`
}
