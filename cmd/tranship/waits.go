package main

import (
	"fmt"
	"io"
	"time"

	"github.com/tranship/tranship/spec"
)

// tellWait prints what a plan waits for, until when, and the command that shows
// the object in the way (safety property 9).
func tellWait(w io.Writer, x *spec.Waiting, now time.Time) {
	until := ""
	if x.Deadline != nil {
		until = fmt.Sprintf(", at most %s more", age(x.Deadline.Time, now))
	}
	fmt.Fprintf(w, "waits     %s %s: %s (%s%s)\n", x.Reason, x.Object, x.Message, age(now, x.Since.Time), until)
	if x.Look != "" {
		fmt.Fprintf(w, "look      %s\n", x.Look)
	}
	for _, e := range x.Events {
		fmt.Fprintf(w, "event     %s\n", e)
	}
}
