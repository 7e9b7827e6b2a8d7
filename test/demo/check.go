package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"path/filepath"
	"time"

	"github.com/jackc/pgx/v5"
)

// check proves what the demonstration promises. All checks are made, and all that
// do not hold are said.
func (d *demo) check(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 3*patience)
	defer cancel()
	v, err := d.settled(ctx)
	if err != nil {
		return err
	}
	if v.Run == nil || v.Run.Spec.Kind != "migrate" || v.Run.Status.Phase != "Succeeded" || v.Status.Recorded.State != "Migrated" {
		return fmt.Errorf("the cutover did not succeed: %s", v.why())
	}
	before := d.writer.counts()
	to, err := addressesOn(ctx, &d.bed.Target)
	if err != nil {
		return err
	}
	var failed error
	for _, c := range []struct {
		name string
		of   func(context.Context) (string, error)
	}{
		{"volumes", func(ctx context.Context) (string, error) { return d.checkVolumes(ctx, v.Run) }},
		{"source", d.checkSource},
		{"target", func(ctx context.Context) (string, error) { return checkWeb(ctx, to, before) }},
		{"client", func(ctx context.Context) (string, error) { return d.checkClient(ctx, to, before) }},
		{"orders", func(ctx context.Context) (string, error) { return d.checkOrders(ctx, to, before) }},
		{"files", func(ctx context.Context) (string, error) { return d.checkFiles(ctx, to) }},
		{"database", func(ctx context.Context) (string, error) { return checkDatabase(ctx, to) }},
	} {
		said, err := c.of(ctx)
		if err != nil {
			failed = errors.Join(failed, fmt.Errorf("%s: %w", c.name, err))
			said = "FAILED: " + err.Error()
		}
		d.say(c.name, "%s", said)
	}
	return failed
}

// settled waits until the ledger tells the end of the run as well: what no run
// waits for is pushed a few seconds later.
func (d *demo) settled(ctx context.Context) (v *planView, err error) {
	return v, wait(ctx, "the end of the cutover to be in Git", patience, time.Second, func(ctx context.Context) (bool, string, error) {
		if v, err = d.status(ctx); err != nil {
			return false, err.Error(), nil
		}
		return v.Status.Recorded.OpenRun == "" && v.Run != nil && v.Run.Spec.Kind == "migrate", v.why(), nil
	})
}

// checkVolumes looks at what the judge said, and that it judged the very volumes
// on which the application runs now, before it was started there.
func (d *demo) checkVolumes(ctx context.Context, run *runView) (string, error) {
	verdict := d.judge.result()
	if err := verdict.problem(); err != nil {
		return "", err
	}
	started, _, ok := run.step("start")
	if end := verdict.at.Add(verdict.took); !ok || !end.Before(started) {
		return "", fmt.Errorf("compared until %s, but the target was started at %s", end, started)
	}
	for _, pair := range d.judge.volumes {
		pv, err := d.bed.Target.kubectl(ctx, "get", "pvc", "-n", namespace, claimOnTarget(pair.claim), "-o", "jsonpath={.spec.volumeName}")
		if err != nil {
			return "", err
		}
		handle, err := d.bed.Target.handle(ctx, pv)
		if err != nil {
			return "", err
		}
		if handle != filepath.Base(pair.target) {
			return "", fmt.Errorf("claim %s is bound to %s on the target; compared was %s", pair.claim, handle, pair.target)
		}
	}
	text := "equal before the target started, by lstat, xattrs and SHA-256"
	for _, line := range verdict.lines {
		text += "; " + line
	}
	return text, nil
}

// claimOnTarget: the plan maps no names.
func claimOnTarget(claim string) string { return claim }

// checkSource: the application is stopped there, and its claims are there still,
// although its StatefulSet says whenScaled: Delete.
func (d *demo) checkSource(ctx context.Context) (string, error) {
	var workloads struct {
		Items []struct {
			Kind     string
			Metadata struct{ Name string }
			Spec     struct{ Replicas int }
		}
	}
	if err := d.bed.Source.get(ctx, &workloads, "-n", namespace, "statefulsets,deployments"); err != nil {
		return "", err
	}
	for _, w := range workloads.Items {
		if w.Spec.Replicas != 0 {
			return "", fmt.Errorf("%s %s has %d replicas on the source", w.Kind, w.Metadata.Name, w.Spec.Replicas)
		}
	}
	if err := wait(ctx, "the last pods of the source to end", patience, time.Second, d.sourceAtRest); err != nil {
		return "", err
	}
	var claims struct {
		Items []struct{ Status struct{ Phase string } }
	}
	if err := d.bed.Source.get(ctx, &claims, "-n", namespace, "pvc"); err != nil {
		return "", err
	}
	for _, c := range claims.Items {
		if c.Status.Phase != "Bound" {
			return "", fmt.Errorf("a claim is %s on the source", c.Status.Phase)
		}
	}
	if len(workloads.Items) != 2 || len(claims.Items) != 2 {
		return "", fmt.Errorf("the source has %d workloads and %d claims, and should have 2 and 2", len(workloads.Items), len(claims.Items))
	}
	return "stopped: both workloads at 0, no pod; both claims are still there", nil
}

// sourceAtRest: no pod of the application is there but such as are on their way out.
func (d *demo) sourceAtRest(ctx context.Context) (bool, string, error) {
	var pods struct {
		Items []struct {
			Metadata struct {
				Name              string
				DeletionTimestamp *time.Time
			}
			Status struct{ Phase string }
		}
	}
	if err := d.bed.Source.get(ctx, &pods, "-n", namespace, "pods"); err != nil {
		return false, err.Error(), nil
	}
	for _, p := range pods.Items {
		switch {
		case p.Status.Phase == "Succeeded" || p.Status.Phase == "Failed":
		case p.Metadata.DeletionTimestamp == nil:
			return false, "", fmt.Errorf("pod %s is %s on the source", p.Metadata.Name, p.Status.Phase)
		default:
			return false, p.Metadata.Name + " is being deleted", nil
		}
	}
	return true, "", nil
}

// checkWeb asks the application on the target, which asks its database.
func checkWeb(ctx context.Context, to addresses, least counts) (string, error) {
	body, err := fetch(ctx, to.web+"/")
	if err != nil {
		return "", err
	}
	var answer struct {
		Greeting      string
		Orders, Files int
	}
	if err := json.Unmarshal(body, &answer); err != nil {
		return "", fmt.Errorf("the application answers %q: %w", body, err)
	}
	if answer.Orders < least.orders || answer.Files < least.files || answer.Greeting == "" {
		return "", fmt.Errorf("the application answers %s; acknowledged were %s", body, least)
	}
	return fmt.Sprintf("answers %s", bytes.TrimSpace(body)), nil
}

// checkClient lets the client go on at the target, then stops it.
func (d *demo) checkClient(ctx context.Context, to addresses, before counts) (string, error) {
	d.writer.follow(to)
	err := wait(ctx, "the client's writes on the target", patience, 100*time.Millisecond, func(context.Context) (bool, string, error) {
		c := d.writer.counts()
		return c.orders >= before.orders+20 && c.files >= before.files+2, c.String(), nil
	})
	if err != nil {
		return "", fmt.Errorf("%w (%v)", err, d.writer.lastError())
	}
	d.writer.stop()
	after := d.writer.counts()
	return fmt.Sprintf("acknowledged on the source: %s; then on the target: %s", before, counts{after.orders - before.orders, after.files - before.files}), nil
}

// checkOrders reads every row. At most one more than was acknowledged may be there.
func (d *demo) checkOrders(ctx context.Context, to addresses, before counts) (string, error) {
	db, err := connect(ctx, to)
	if err != nil {
		return "", err
	}
	defer db.Close(ctx)
	rows, err := db.Query(ctx, "SELECT seq, body FROM orders ORDER BY seq")
	if err != nil {
		return "", err
	}
	next, acknowledged := 1, d.writer.counts().orders
	var seq int
	var body string
	if _, err := pgx.ForEachRow(rows, []any{&seq, &body}, func() error {
		if seq != next {
			return fmt.Errorf("order %d is missing: %d orders were acknowledged, %d of them on the source", next, acknowledged, before.orders)
		}
		if body != orderBody(seq) {
			return fmt.Errorf("order %d has another content", seq)
		}
		next++
		return nil
	}); err != nil {
		return "", err
	}
	if have := next - 1; have < acknowledged || have > acknowledged+1 {
		return "", fmt.Errorf("%d orders are there, %d were acknowledged", have, acknowledged)
	}
	var described int
	const right = "SELECT count(*) FROM catalog WHERE description = repeat(md5(n::text), 30)"
	if err := db.QueryRow(ctx, right).Scan(&described); err != nil || described != 20000 {
		return "", fmt.Errorf("the catalog has %d right rows of 20000: %w", described, err)
	}
	return fmt.Sprintf("all %d acknowledged orders are in PostgreSQL on the target, none with another content", acknowledged), nil
}

// checkFiles reads every uploaded file.
func (d *demo) checkFiles(ctx context.Context, to addresses) (string, error) {
	acknowledged := d.writer.counts().files
	for seq := 1; seq <= acknowledged; seq++ {
		body, err := fetch(ctx, to.web+"/files/"+fileName(seq))
		if err != nil {
			return "", fmt.Errorf("file %d of %d: %w", seq, acknowledged, err)
		}
		if !bytes.Equal(body, fileBody(seq)) {
			return "", fmt.Errorf("file %d of %d has another content", seq, acknowledged)
		}
	}
	return fmt.Sprintf("all %d acknowledged files are on the target", acknowledged), nil
}

// fetch tries until there is an answer; one that is not OK is an error at once.
func fetch(ctx context.Context, url string) (body []byte, err error) {
	return body, wait(ctx, url+" to answer", patience, retryPause, func(ctx context.Context) (bool, string, error) {
		ctx, cancel := context.WithTimeout(ctx, time.Minute)
		defer cancel()
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
		if err != nil {
			return false, "", err
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			return false, err.Error(), nil
		}
		defer resp.Body.Close()
		if body, err = io.ReadAll(resp.Body); err != nil {
			return false, err.Error(), nil
		}
		if resp.StatusCode != http.StatusOK {
			return false, "", fmt.Errorf("%s answers %s: %s", url, resp.Status, body)
		}
		return true, "", nil
	})
}
