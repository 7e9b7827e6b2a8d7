package main

import (
	"context"
	"fmt"
	"os"
	"strings"
)

// report shows what is in Git: commits with their trailers, and the record of
// the cutover with its steps.
func (d *demo) report(ctx context.Context) error {
	if _, err := d.plans.git(ctx, "fetch", "-q", "origin", "+refs/heads/"+d.ledger+":refs/remotes/origin/ledger"); err != nil {
		return err
	}
	log, err := d.plans.git(ctx, "log", "--reverse", "--format=%h %s%n%w(0,10,10)%(trailers:separator=%x2C%x20)", "origin/ledger")
	if err != nil {
		return err
	}
	d.block("What the daemon wrote to Git (git log "+d.ledger+"):", log)
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
	return d.tellStopTime(ctx)
}

// tellStopTime says how long the application was not there, and how much of it
// was not the product's: its own stop and start, and this program's comparison.
func (d *demo) tellStopTime(ctx context.Context) error {
	v, err := d.status(ctx)
	if err != nil {
		return err
	}
	r := v.Run
	if r.Status.StopSeconds <= 0 {
		return fmt.Errorf("the record of %s has no stop time", r.Metadata.Name)
	}
	fmt.Fprintf(d.out, "\nstop time: %.1f s (application's own stop and start: %.1f s)\n", r.Status.StopSeconds, r.Status.OwnSeconds)
	if started, ended, ok := r.step("post-backup-hooks"); ok {
		check := ended.Sub(started).Seconds()
		fmt.Fprintf(d.out, "of it this demonstration's own check, a hook during which the volumes are compared: %.1f s (without it: %.1f s)\n", check, r.Status.StopSeconds-check)
	}
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
