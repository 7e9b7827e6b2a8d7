package spec

import (
	"fmt"
	"strings"
)

// ShardProblems says where daemons would meet that are meant to share a
// repository of plans: on a folder, on a shard's name or on a ledger's branch. No
// daemon sees another's configuration, so that somebody has to compare them.
func ShardProblems(configs []*DaemonConfig) []Problem {
	var out []Problem
	for i, b := range configs {
		for _, a := range configs[:i] {
			for _, message := range meeting(&a.Spec, &b.Spec) {
				out = append(out, Problem{Path: "spec.shard", Message: fmt.Sprintf("configurations %s and %s %s", quote(a.Metadata.Name), quote(b.Metadata.Name), message)})
			}
		}
	}
	return out
}

func meeting(a, b *DaemonConfigSpec) (messages []string) {
	if sameRepository(a.Ledger.URL, b.Ledger.URL) && a.Ledger.Branch == b.Ledger.Branch {
		messages = append(messages, fmt.Sprintf("write to the same ledger, branch %s: give each a ledger.branch of its own", quote(a.Ledger.Branch)))
	}
	if !sameRepository(a.Source.URL, b.Source.URL) {
		return messages
	}
	if a.Shard != nil && b.Shard != nil && a.Shard.Name == b.Shard.Name {
		messages = append(messages, fmt.Sprintf("are both shard %s: give each a name of its own", quote(a.Shard.Name)))
	}
	for _, x := range a.folders() {
		for _, y := range b.folders() {
			if covers(x, y) || covers(y, x) {
				messages = append(messages, fmt.Sprintf("both run the plans below %s: give each plan to one of them", quote(deeper(x, y))))
			}
		}
	}
	return messages
}

// folders are those whose plans a daemon runs; "" is the repository.
func (s *DaemonConfigSpec) folders() []string {
	if s.Shard == nil {
		return []string{s.Source.Path}
	}
	return s.Shard.Paths
}

func covers(dir, inner string) bool {
	return dir == "" || dir == inner || strings.HasPrefix(inner, dir+"/")
}

func deeper(a, b string) string {
	if covers(a, b) {
		return either(b, ".")
	}
	return a
}
