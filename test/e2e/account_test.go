package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/tranship/tranship/spec"
	shared "github.com/tranship/tranship/test/lab"
)

// smaller makes the accounts that docs/permissions.md describes, under the lab's name,
// and gives the daemon their tokens.
func (l *lab) smaller() {
	l.t.Helper()
	page, err := os.ReadFile("../../docs/permissions.md")
	l.must(err)
	roles := regexp.MustCompile("(?s)```yaml\n(.*?)```").FindAllStringSubmatch(string(page), -1)
	if len(roles) != 2 {
		l.t.Fatalf("docs/permissions.md has %d pieces of YAML, want the source's and the target's", len(roles))
	}
	for i, side := range []struct {
		secret  string
		cluster *shared.Cluster
	}{{"old", &l.bed.Source}, {"new", &l.bed.Target}} {
		l.t.Cleanup(func() {
			for _, args := range [][]string{{"delete", "clusterrole,clusterrolebinding", l.name}, {"-n", "tranship-system", "delete", "serviceaccount,rolebinding", l.name}, {"-n", "velero", "delete", "role,rolebinding", l.name}} {
				_, _ = l.kubectl(side.cluster.Kubeconfig, append(args, "--ignore-not-found")...)
			}
		})
		file := "roles-" + side.secret + ".yaml"
		l.on(side.cluster, "-n", "tranship-system", "create", "serviceaccount", l.name)
		l.write(file, strings.NewReplacer("name: tranship,", "name: "+l.name+",", "name: tranship}", "name: "+l.name+"}").Replace(roles[i][1]))
		l.on(side.cluster, "apply", "-f", filepath.Join(l.dir, file))
		l.write("secrets/"+side.secret+"/token", l.on(side.cluster, "-n", "tranship-system", "create", "token", l.name, "--duration=2h"))
		if got, _ := l.kubectl(side.cluster.Kubeconfig, "auth", "can-i", "*", "*", "--as=system:serviceaccount:tranship-system:"+l.name); !strings.HasPrefix(got, "no") {
			l.t.Fatalf("the account %s may do everything: %s", side.secret, got)
		}
	}
}

// TestASmallerAccountIsEnough stages, migrates and rolls back with accounts that have the
// roles of docs/permissions.md, and no other right.
func TestASmallerAccountIsEnough(t *testing.T) {
	long(t)
	l := newLab(t)
	l.smaller()
	l.open(l.stateful(), "statefulset/db", fmt.Sprintf("stage: {requestedAt: %q}", time.Now().UTC().Format(time.RFC3339)))
	s := l.wait("a stage run", 3*time.Minute, func(s *story) bool { return s.Status.LastStage != nil })
	if s.Status.LastStage.Result != spec.RunSucceeded {
		t.Fatalf("the stage run: %+v", s.Run.Status)
	}
	l.flip(spec.Migrated, "")
	l.waitReason("Migrated", 4*time.Minute)
	l.flip(spec.RolledBack, "rollback: {targetWrites: Discard}")
	l.waitReason("RolledBack", 4*time.Minute)
	l.rolledOut("statefulset/db")
	l.neverSaid("forbidden", "may not do this")
	l.flip(spec.Closed, "rollback: {targetWrites: Discard}")
	l.waitReason("Closed", 3*time.Minute)
	l.neverSaid("forbidden", "may not do this")
	l.nothingOfThePlanIsLeft()
	l.nothingLeaks()
}
