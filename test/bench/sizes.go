package main

import (
	"flag"

	"github.com/tranship/tranship/test/bench/shape"
)

// sizes are the volumes that are measured. What is not full is a tenth, so
// that everything fits a small machine and half an hour; the tables say so.
type sizes struct {
	LargeFiles  int // of LargeMiB each; 1 % of their pages change
	LargeMiB    int
	SmallFiles  int // of 5,368 bytes each, 1 GiB in 200,000; 1 % of them change
	SparseMiB   int // one file, of which a twentieth is used
	MemoryFiles int
	StageFiles  int
}

var (
	fullSizes   = sizes{LargeFiles: 20, LargeMiB: 512, SmallFiles: 200_000, SparseMiB: 20 << 10, MemoryFiles: 1_000_000, StageFiles: 200_000}
	scaledSizes = sizes{LargeFiles: 20, LargeMiB: 51, SmallFiles: 20_000, SparseMiB: 2 << 10, MemoryFiles: 100_000, StageFiles: 200_000}
)

func sizeFlags(flags *flag.FlagSet) *sizes {
	s := scaledSizes
	flags.IntVar(&s.LargeFiles, "large-files", s.LargeFiles, "large files")
	flags.IntVar(&s.LargeMiB, "large-mib", s.LargeMiB, "MiB of each large file; 512 is full size")
	flags.IntVar(&s.SmallFiles, "small-files", s.SmallFiles, "small files; 200000 is full size")
	flags.IntVar(&s.SparseMiB, "sparse-mib", s.SparseMiB, "MiB of the sparse file; 20480 is full size")
	flags.IntVar(&s.MemoryFiles, "memory-files", s.MemoryFiles, "files for the mover's memory; 1000000 is full size")
	flags.IntVar(&s.StageFiles, "stage-files", s.StageFiles, "files of the stage run that finds nothing changed; 200000 is full size")
	return &s
}

const smallFileBytes = (1 << 30) / 200_000

func (s sizes) large() shape.Shape {
	one := int64(s.LargeMiB) << 20
	return shape.Shape{Files: s.LargeFiles, FileBytes: one, ChangePages: int(int64(s.LargeFiles) * one / shape.Page / 100)}
}

func (s sizes) small() shape.Shape {
	return shape.Shape{Files: s.SmallFiles, FileBytes: smallFileBytes, ChangeFiles: s.SmallFiles / 100}
}

func (s sizes) sparse() shape.Shape {
	one := int64(s.SparseMiB) << 20
	return shape.Shape{Files: 1, FileBytes: one, UsedBytes: one / 20}
}

func (s sizes) tiny(files int) shape.Shape {
	return shape.Shape{Files: files, FileBytes: 64, ChangeFiles: 1}
}
