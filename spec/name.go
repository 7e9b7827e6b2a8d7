package spec

import (
	"crypto/sha256"
	"encoding/hex"
	"strings"
)

// ShortName cuts a plan's name to what fits in paths, labels and object
// names: up to 40 characters of it and 10 hex digits of its SHA-256. The full
// name goes into an annotation or the document.
func ShortName(plan string) string {
	sum := sha256.Sum256([]byte(plan))
	head := plan
	if len(head) > 40 {
		head = head[:40]
	}
	return strings.Trim(head, "-.") + "-" + hex.EncodeToString(sum[:5])
}
