package main

import (
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/tranship/tranship/spec"
)

// tellWait prints what a plan waits for, until when, and the command that shows
// the object in the way (safety property 9).
func tellWait(w io.Writer, x *spec.Waiting, run *spec.Run, now time.Time) {
	until := ""
	if x.Deadline != nil {
		until = fmt.Sprintf(", at most %s more", age(x.Deadline.Time, now))
	}
	fmt.Fprintf(w, "waits     %s %s: %s (%s%s)\n", x.Reason, x.Object, x.Message, age(now, x.Since.Time), until)
	if look := lookAt(x.Object, run); look != "" {
		fmt.Fprintf(w, "look      %s\n", look)
	}
}

// lookAt is the command that describes an object named as "source Pod shop/web-1".
func lookAt(object string, run *spec.Run) string {
	side, rest, _ := strings.Cut(object, " ")
	kind, name, ok := strings.Cut(rest, " ")
	if !ok || run == nil || strings.Contains(name, " ") {
		return ""
	}
	cluster := map[string]string{string(spec.Source): run.Spec.Closure.Source.Metadata.Name, string(spec.Target): run.Spec.Closure.Target.Metadata.Name}[side]
	if cluster == "" {
		return ""
	}
	at := ""
	if ns, n, ok := strings.Cut(name, "/"); ok {
		at, name = " -n "+ns, n
	}
	return fmt.Sprintf("on cluster %s: kubectl%s describe %s %s", cluster, at, strings.ToLower(kind), name)
}
