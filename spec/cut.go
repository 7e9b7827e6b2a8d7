package spec

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"reflect"
	"strings"
	"unicode/utf8"
)

// Sizes that records in Git are kept within, in bytes (ADR 37).
const (
	MaxRunBytes    = 64 << 10
	MaxStatusBytes = 32 << 10
)

// Cut says what was left out of a record so that it stays within its size.
type Cut struct {
	Messages int `json:"messages,omitempty"` // sentences that were shortened; each ends with "… [cut]"
	Entries  int `json:"entries,omitempty"`  // warnings, notes, problems and the like that are gone
	Bytes    int `json:"bytes,omitempty"`    // of both
	// Over is set where the record is larger all the same, and says why.
	Over string `json:"over,omitempty"`
}

const (
	cutMark = "… [cut]"
	// cutRoom is for sentences in a record that is over its size without any, and
	// cutSelf for the field that says what was left out.
	cutRoom = 8 << 10
	cutSelf = 256
)

// Fields of records that tell people something and decide nothing: texts are
// shortened, the longest first, and lists lose entries, the oldest first. What
// stands in lastLists is still added to while a run goes on. All other fields are
// needed to go on, to undo, or to prove something.
var (
	cutTexts  = map[string]bool{"Step.Message": true, "Undid.Message": true, "RunStatus.Message": true, "Volume.TransferReason": true, "Condition.Message": true, "Waiting.Message": true, "Problem.Message": true, "PlanStatus.LastFailure": true}
	cutLists  = map[string]bool{"RunStatus.Warnings": true, "Volume.Warnings": true, "Volume.Notes": true, "Verified.First": true, "PlanStatus.Problems": true, "Waiting.Events": true}
	lastLists = map[string]bool{"Facts.Changes": true, "Facts.Skipped": true}
)

// bounds are the most bytes that a text, and entries that a list, may have.
type bounds struct{ text, list int }

// ladder is tried from the first to the last; the first changes nothing.
var ladder = []bounds{{math.MaxInt, math.MaxInt}, {4096, 100}, {1024, 50}, {512, 20}, {256, 10}, {128, 4}, {64, 1}, {64, 0}}

// CapRun is EncodeRun of what is left of a run within MaxRunBytes. The run itself
// stays as it is. Where leaving out sentences does not suffice, the rest is
// written whole and Cut.Over says so: a record is never refused for its size.
func CapRun(r *Run) ([]byte, error) {
	return capped(r, MaxRunBytes, EncodeRun, func(r *Run) **Cut { return &r.Cut })
}

// CapStatus is CapRun for a plan's status, with MaxStatusBytes.
func CapStatus(s *PlanStatus) ([]byte, error) {
	return capped(s, MaxStatusBytes, EncodeStatus, func(s *PlanStatus) **Cut { return &s.Cut })
}

func capped[T any](record *T, limit int, encode func(*T) ([]byte, error), field func(*T) **Cut) ([]byte, error) {
	data, err := encode(record)
	if err != nil || len(data) <= limit {
		return data, err
	}
	whole, err := json.Marshal(record)
	if err != nil {
		return nil, err
	}
	over := fmt.Sprintf("larger than %d bytes: what is left is needed to go on or to undo", limit)
	left, cut, err := leave(whole, ladder[0], field)
	if all, failed := gain(whole, field); failed != nil {
		return nil, failed
	} else if all > cutRoom || len(data)-all <= limit { // else as with a thousand objects: nothing to weigh
		var fits bool
		if left, cut, fits, err = fit(whole, limit, encode, field); fits {
			over = ""
		}
	}
	if err != nil {
		return nil, err
	}
	cut.Over = over
	*field(left) = &cut
	return encode(left)
}

// fit goes down the ladder until a record fits. One that never does keeps
// sentences of cutRoom bytes beside what it needs.
func fit[T any](whole []byte, limit int, encode func(*T) ([]byte, error), field func(*T) **Cut) (left *T, cut Cut, fits bool, err error) {
	try := func(b bounds) (size int, err error) {
		if left, cut, err = leave(whole, b, field); err != nil {
			return 0, err
		}
		bare, err := encode(left)
		return len(bare) + cutSelf, err
	}
	least, err := try(ladder[len(ladder)-1])
	fits = least <= limit
	if !fits {
		limit = least + cutRoom
	}
	for _, b := range ladder {
		var size int
		if size, err = try(b); err != nil || size <= limit {
			break
		}
	}
	return left, cut, fits, err
}

// leave is a copy of an encoded record within bounds, and what is not in it.
// Its field for that is empty, so that sizes do not depend on what was cut before.
func leave[T any](whole []byte, b bounds, field func(*T) **Cut) (left *T, cut Cut, err error) {
	left = new(T)
	if err := json.Unmarshal(whole, left); err != nil {
		return nil, cut, err
	}
	if was := *field(left); was != nil {
		cut = Cut{Messages: was.Messages, Entries: was.Entries, Bytes: was.Bytes}
	}
	*field(left) = nil
	c := cutter{bounds: b, cut: &cut}
	if run, ok := any(left).(*Run); ok {
		c.ended = run.Status.Ended != nil
	}
	c.walk(reflect.ValueOf(left).Elem())
	return left, cut, nil
}

// gain is more than all sentences take up in YAML, where a byte of JSON is at
// most eight: a new line is written with its indentation.
func gain[T any](whole []byte, field func(*T) **Cut) (int, error) {
	most, _, err := leave(whole, ladder[0], field)
	if err != nil {
		return 0, err
	}
	least, _, err := leave(whole, ladder[len(ladder)-1], field)
	if err != nil {
		return 0, err
	}
	a, err1 := json.Marshal(most)
	b, err2 := json.Marshal(least)
	return 8 * (len(a) - len(b)), errors.Join(err1, err2)
}

// cutter leaves out of a record what exceeds the bounds, and counts it.
type cutter struct {
	bounds
	ended bool // the record is of a run that has ended
	cut   *Cut
}

func (c *cutter) walk(v reflect.Value) {
	switch v.Kind() {
	case reflect.Pointer:
		if !v.IsNil() {
			c.walk(v.Elem())
		}
	case reflect.Slice:
		for i := range v.Len() {
			c.walk(v.Index(i))
		}
	case reflect.Struct:
		for i := range v.NumField() {
			f, name := v.Field(i), v.Type().Name()+"."+v.Type().Field(i).Name
			switch {
			case !f.CanSet():
			case cutTexts[name]:
				f.SetString(c.shorten(f.String()))
			case cutLists[name], lastLists[name] && c.ended:
				c.shed(f)
			default:
				c.walk(f)
			}
		}
	}
}

// shed drops the oldest entries of a list, and shortens the others.
func (c *cutter) shed(list reflect.Value) {
	if n := list.Len() - c.list; n > 0 {
		for i := range n {
			c.cut.Entries++
			c.cut.Bytes += sizeOf(list.Index(i))
		}
		list.Set(list.Slice(n, list.Len()))
	}
	for i := range list.Len() {
		if e := list.Index(i); e.Kind() == reflect.String {
			e.SetString(c.shorten(e.String()))
		} else {
			c.walk(e)
		}
	}
}

func sizeOf(entry reflect.Value) int {
	if entry.Kind() == reflect.String {
		return entry.Len()
	}
	data, _ := json.Marshal(entry.Interface()) // the record that it is in was encoded
	return len(data)
}

// shorten is the same whether a text is cut once or in several goes.
func (c *cutter) shorten(s string) string {
	if len(s) <= c.text || len(s)-c.text <= len(cutMark) {
		return s
	}
	body := strings.TrimSuffix(s, cutMark)
	at := c.text
	for at > 0 && !utf8.RuneStart(body[at]) {
		at--
	}
	c.cut.Bytes += len(body) - at
	if body == s {
		c.cut.Messages++
	}
	return body[:at] + cutMark
}
