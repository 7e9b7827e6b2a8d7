package main

import (
	"context"
	"fmt"
	"os"
	"regexp"
	"strings"
	"time"
)

// report shows what is in Git: the cutover's commits with their trailers, and its
// record with all steps.
func (d *demo) report(ctx context.Context) error {
	v, err := d.status(ctx)
	if err != nil {
		return err
	}
	if err := d.tellLog(ctx, v.Run.Metadata.Name); err != nil {
		return err
	}
	text, err := d.product(ctx, "status", planName)
	if err != nil {
		return err
	}
	var lines []string
	for line := range strings.SplitSeq(text, "\n") {
		if !strings.HasPrefix(line, "stop time:") { // is told at the end
			lines = append(lines, line)
		}
	}
	d.block("The record of the cutover (tranship status "+planName+"):", strings.Join(lines, "\n"))
	return d.tellStopTime(v.Run)
}

// tellLog shows the commits of a run, the newest last.
func (d *demo) tellLog(ctx context.Context, run string) error {
	const ref = "refs/remotes/origin/ledger"
	if _, err := d.plans.git(ctx, "fetch", "-q", "origin", "+refs/heads/"+d.ledger+":"+ref); err != nil {
		return err
	}
	all, err := d.plans.git(ctx, "rev-list", "--count", ref)
	if err != nil {
		return err
	}
	text, err := d.plans.git(ctx, "log", "--reverse", "--grep=^Migration-Run: "+run+"$", "--format=%h %s%x1f%(trailers:separator=%x1f)", ref)
	if err != nil {
		return err
	}
	var b strings.Builder
	commits := strings.Split(text, "\n")
	for _, commit := range commits {
		subject, trailers, _ := strings.Cut(commit, "\x1f")
		fmt.Fprintf(&b, "%s\n        %s\n", subject, brief(strings.Split(trailers, "\x1f")))
	}
	d.block(fmt.Sprintf("What the daemon wrote to Git (git log %s): %s commits, these %d are of the cutover:", d.ledger, all, len(commits)), b.String())
	return nil
}

var longHex = regexp.MustCompile(`[0-9a-f]{16,}`)

// brief joins the values of a trailer that is there more than once, and cuts
// digests short. The ledger's own bookkeeping is left out.
func brief(trailers []string) string {
	var out []string
	last := ""
	for _, t := range trailers {
		key, value, ok := strings.Cut(t, ": ")
		if !ok || strings.HasPrefix(key, "Tranship-") {
			continue
		}
		value = longHex.ReplaceAllStringFunc(value, func(s string) string { return s[:10] })
		if key == last {
			out[len(out)-1] += " " + value
			continue
		}
		out, last = append(out, key+": "+value), key
	}
	return strings.Join(out, ", ")
}

// tellStopTime says how long the application was not there, and how much of it
// was not the product's: its own stop and start, and this program's comparison.
func (d *demo) tellStopTime(r *runView) error {
	if r.Status.StopSeconds <= 0 {
		return fmt.Errorf("the record of %s has no stop time", r.Metadata.Name)
	}
	fmt.Fprintf(d.out, "\nstop time: %.1f s (application's own stop and start: %.1f s)\n", r.Status.StopSeconds, r.Status.OwnSeconds)
	if started, ended, ok := r.step("post-backup-hooks"); ok {
		hook := ended.Sub(started).Seconds()
		fmt.Fprintf(d.out, "Of it %.1f s are this demonstration's own check, a hook that waits while the volumes are compared (%.1f s); without it: %.1f s.\n",
			hook, d.judge.result().took.Seconds(), r.Status.StopSeconds-hook)
	}
	fmt.Fprintf(d.out, "The demonstration passed in %.0f s.\n", time.Since(d.start).Seconds())
	return nil
}

// tellHowToLook is for --keep.
func (d *demo) tellHowToLook() {
	var b strings.Builder
	for _, c := range d.bed.clusters() {
		fmt.Fprintf(&b, "%s --kubeconfig %s -n %s get all,pvc\n", d.bed.Kubectl, c.Kubeconfig, namespace)
	}
	if d.daemon != nil {
		flags := strings.Join(d.daemon.flags, " ")
		fmt.Fprintf(&b, "%s status %s %s\n%s logs %s %s\n", d.tranship, planName, flags, d.tranship, planName, flags)
		fmt.Fprintf(&b, "tail -f %s\n", d.daemon.log)
	}
	url := strings.Replace(d.bed.Git.URL, "://", "://"+d.bed.Git.Dev.User+"@", 1)
	fmt.Fprintf(&b, "git -c http.sslCAInfo=%s clone %s   # the password is in %s\n", d.bed.Git.CAFile, url, d.bed.Git.Dev.PasswordFile)
	d.block("Everything is left running. To look at it:", b.String())
}

// explain shows what a person would look at first after a failure.
func (d *demo) explain(ctx context.Context) {
	if d.daemon != nil {
		if text, err := d.product(ctx, "status", planName); err == nil {
			d.block("The newest record:", text)
		}
		d.block("The end of the daemon's log ("+d.daemon.log+"):", tail(d.daemon.log, 40))
	}
	for _, c := range d.bed.clusters() {
		for _, ns := range []string{namespace, ourNamespace} {
			pods, err := c.kubectl(ctx, "get", "pods,pvc", "-n", ns, "-o", "wide")
			if err != nil {
				pods = err.Error()
			}
			events, err := c.kubectl(ctx, "get", "events", "-n", ns, "--sort-by=.lastTimestamp")
			if err != nil {
				events = err.Error()
			}
			d.block(fmt.Sprintf("Pods, claims and the newest events of %s on the %s:", ns, c.name), pods+"\n"+last(events, 15))
		}
	}
}

func tail(path string, n int) string {
	raw, err := os.ReadFile(path)
	if err != nil {
		return err.Error()
	}
	return last(string(raw), n)
}

func last(text string, n int) string {
	lines := strings.Split(strings.TrimRight(text, "\n"), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}
