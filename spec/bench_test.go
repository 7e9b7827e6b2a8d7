package spec

import (
	"os"
	"testing"
	"time"
)

// One manifest of an ordinary plan; a cold start decodes thousands.
func BenchmarkDecode(b *testing.B) {
	data, err := os.ReadFile("../examples/plans/shop.yaml")
	if err != nil {
		b.Fatal(err)
	}
	b.SetBytes(int64(len(data)))
	b.ReportAllocs()
	for b.Loop() {
		Decode(File{Path: "shop.yaml", Data: data})
	}
}

func BenchmarkNext(b *testing.B) {
	for _, expr := range []string{"0 1 * * *", "*/5 * * * *", "0 0 29 2 *"} {
		s := mustSchedule(b, expr, "Europe/Berlin")
		b.Run(expr, func(b *testing.B) {
			from := time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC)
			for b.Loop() {
				s.Next(from)
			}
		})
	}
}

func BenchmarkDigest(b *testing.B) {
	c := closureOf(b, planYAML)
	for b.Loop() {
		c.Digest()
	}
}
