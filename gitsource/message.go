package gitsource

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/go-git/go-git/v5/plumbing"
)

// Trailers of a ledger commit, in the order in which they are written. The
// first group comes with the records; the second is the ledger's own.
var recordTrailers = []string{"Migration-Plan", "Migration-Run", "Migration-Step", "Source-Commit", "Plan-Digest", "Prev-Record"}

const (
	epochTrailer   = "Tranship-Epoch"   // a commit without it is not a daemon's
	journalTrailer = "Tranship-Journal" // <journal>:<newest entry in this commit>
	adoptTrailer   = "Tranship-Adopt"   // the tip that a person accepted
	personTrailer  = "Tranship-Adopted-By"

	maxSubject  = 72
	maxSubjects = 50 // listed in the body of a batch
	maxTrailer  = 200
)

// commitMessage describes a batch: the newest subject, and all of them below
// where there are several; then every trailer value once.
func commitMessage(batch []entry, own []string) string {
	var subjects []string
	seen := map[string]bool{"": true} // a batch may be of thousands
	for _, e := range batch {
		if s := oneLine(e.Subject, 200); !seen[s] {
			seen[s], subjects = true, append(subjects, s)
		}
	}
	var b strings.Builder
	switch len(subjects) {
	case 0:
		b.WriteString("Record the daemon's status\n\n")
	case 1:
		b.WriteString(oneLine(subjects[0], maxSubject-len("…")) + "\n\n")
	default:
		more := fmt.Sprintf(" (and %d more)", len(subjects)-1)
		b.WriteString(oneLine(subjects[len(subjects)-1], maxSubject-len(more)-len("…")) + more + "\n\n")
		for _, s := range subjects[:min(len(subjects), maxSubjects)] {
			b.WriteString("- " + s + "\n")
		}
		if more := len(subjects) - maxSubjects; more > 0 {
			fmt.Fprintf(&b, "- and %d more\n", more)
		}
		b.WriteString("\n")
	}
	for _, key := range recordTrailers {
		said := map[string]bool{"": true}
		for _, e := range batch {
			if v := oneLine(e.Trailers[key], maxTrailer); !said[v] {
				said[v] = true
				b.WriteString(key + ": " + v + "\n")
			}
		}
	}
	for _, line := range own {
		b.WriteString(line + "\n")
	}
	return b.String()
}

// marks are the ledger's own trailers of a commit.
type marks struct {
	ours    bool // a daemon's, or `tranship ledger adopt`
	epoch   int64
	journal string
	seq     int64
	adopts  plumbing.Hash
}

func readMarks(message string) marks {
	var m marks
	message = strings.TrimRight(message, "\n")
	last := message[strings.LastIndex(message, "\n\n")+1:]
	for _, line := range strings.Split(last, "\n") {
		key, value, ok := strings.Cut(line, ": ")
		if !ok {
			continue
		}
		switch key {
		case epochTrailer:
			n, err := strconv.ParseInt(value, 10, 64)
			m.ours, m.epoch = err == nil, n
		case journalTrailer:
			id, seq, _ := strings.Cut(value, ":")
			m.journal = id
			m.seq, _ = strconv.ParseInt(seq, 10, 64) // 0 covers nothing
		case adoptTrailer:
			m.adopts = plumbing.NewHash(value)
		}
	}
	return m
}
