package reconciler

import (
	"fmt"
	"strings"

	"github.com/tranship/tranship/spec"
)

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
