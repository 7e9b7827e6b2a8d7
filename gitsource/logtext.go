package gitsource

import (
	"bytes"
	"crypto/sha256"
	"encoding"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"hash"
	"strings"
)

// Limits of a log file in Git, in bytes.
const (
	logHead = 64 << 10
	logTail = 192 << 10
)

const cutMark = "--- tranship cut "

// appendLog adds text to a log file as it stands in Git, and keeps the file
// within its limits: the first 64 KiB, a line that says what was cut, and the
// last 192 KiB. That line carries the state of the hash over everything, so
// that the next piece can be added by a daemon that has only Git.
func appendLog(now []byte, text string) []byte {
	if text == "" {
		return now
	}
	// A line of the text must not be taken for ours.
	text = strings.ReplaceAll("\n"+text, "\n"+cutMark, "\n "+cutMark)[1:]
	l, ok := parseCut(now)
	if !ok {
		if len(now)+len(text) <= logHead+logTail {
			return append(bytes.Clone(now), text...)
		}
		l = cutLog{sum: sha256.New()}
		l.sum.Write(now)
		all := append(bytes.Clone(now), text...)
		l.sum.Write([]byte(text))
		at := lineEnd(all, logHead)
		l.head, l.tail = all[:at], all[at:]
	} else {
		l.sum.Write([]byte(text))
		l.tail = append(l.tail, text...)
	}
	if over := len(l.tail) - logTail; over > 0 {
		at := max(over, lineEnd(l.tail, over+4096))
		l.bytes += int64(at)
		l.lines += int64(bytes.Count(l.tail[:at], []byte("\n")))
		l.tail = l.tail[at:]
	}
	return l.encode()
}

// lineEnd is the end of the last line within the first limit bytes, or limit
// when a line is longer than that.
func lineEnd(b []byte, limit int) int {
	limit = min(limit, len(b))
	if i := bytes.LastIndexByte(b[:limit], '\n'); i > 0 {
		return i + 1
	}
	return limit
}

// cutLog is a log file that is over its limit.
type cutLog struct {
	head, tail   []byte
	bytes, lines int64
	sum          hash.Hash
}

func (l *cutLog) encode() []byte {
	state, err := l.sum.(encoding.BinaryMarshaler).MarshalBinary()
	if err != nil { // crypto/sha256 never fails here
		state = nil
	}
	var b bytes.Buffer
	b.Write(l.head)
	if n := len(l.head); n > 0 && l.head[n-1] != '\n' {
		b.WriteByte('\n')
	}
	fmt.Fprintf(&b, "%s%d bytes, %d lines; sha256 of the whole: %s; state: %s\n", cutMark, l.bytes, l.lines,
		hex.EncodeToString(l.sum.Sum(nil)), base64.RawStdEncoding.EncodeToString(state))
	b.Write(l.tail)
	return b.Bytes()
}

func parseCut(b []byte) (cutLog, bool) {
	at := bytes.Index(b, []byte("\n"+cutMark))
	if at < 0 {
		return cutLog{}, false
	}
	at++
	end := bytes.IndexByte(b[at:], '\n')
	if end < 0 {
		return cutLog{}, false
	}
	l := cutLog{head: b[:at], tail: bytes.Clone(b[at+end+1:]), sum: sha256.New()}
	var whole, state string
	if _, err := fmt.Sscanf(string(b[at:at+end]), cutMark+"%d bytes, %d lines; sha256 of the whole: %64s; state: %s", &l.bytes, &l.lines, &whole, &state); err != nil {
		return cutLog{}, false
	}
	raw, err := base64.RawStdEncoding.DecodeString(state)
	if err != nil || l.sum.(encoding.BinaryUnmarshaler).UnmarshalBinary(raw) != nil {
		return cutLog{}, false
	}
	return l, true
}
