//go:build tools

// Package tools pins the object store of the bed.
package tools

import (
	_ "github.com/versity/versitygw/cmd/versitygw"
)
