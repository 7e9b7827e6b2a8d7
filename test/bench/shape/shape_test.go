package shape

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"
)

func TestChangesAreWhatTheyAreSaidToBe(t *testing.T) {
	for name, s := range map[string]Shape{
		"pages": {Files: 3, FileBytes: 1 << 20, ChangePages: 7},
		"files": {Files: 450, FileBytes: 777, ChangeFiles: 5},
		"holes": {Files: 1, FileBytes: 20 << 20, UsedBytes: 2 << 20, ChangePages: 3},
	} {
		t.Run(name, func(t *testing.T) {
			dir, twin := t.TempDir(), t.TempDir()
			for _, d := range []string{dir, twin} {
				if err := s.Fill(d); err != nil {
					t.Fatal(err)
				}
			}
			if err := s.Change(dir, 4); err != nil {
				t.Fatal(err)
			}
			if n, err := Walk(dir); err != nil || n != s.Files+2+(s.Files-1)/filesPerDir+1 {
				t.Errorf("walked %d entries of %d files: %v", n, s.Files, err)
			}
			changes := s.Changes(4)
			if len(changes) != max(s.ChangePages, s.ChangeFiles) {
				t.Errorf("%d changes", len(changes))
			}
			_, files := s.Pieces(4)
			touched := map[int]bool{}
			for _, i := range files {
				touched[i] = true
			}
			for i := range s.Files {
				now, before := read(t, dir, i), read(t, twin, i)
				if int64(len(now)) != s.FileBytes || bytes.Equal(now, before) == touched[i] {
					t.Errorf("file %d has %d bytes, touched: %t", i, len(now), touched[i])
				}
				for _, span := range changes {
					if span.File != i {
						continue
					}
					if bytes.Equal(now[span.Start:span.Start+span.Len], before[span.Start:span.Start+span.Len]) {
						t.Errorf("%+v did not change", span)
					}
					copy(now[span.Start:], before[span.Start:span.Start+span.Len])
				}
				if !bytes.Equal(now, before) {
					t.Errorf("file %d changed elsewhere too", i)
				}
			}
		})
	}
}

func TestPiecesCoverTheChanges(t *testing.T) {
	s := Shape{Files: 2, FileBytes: 10*Piece + 5000, ChangePages: 30}
	pieces, _ := s.Pieces(1)
	for _, c := range s.Changes(1) {
		covered := false
		for i, p := range pieces {
			covered = covered || p.File == c.File && p.Start <= c.Start && c.Start+c.Len <= p.Start+p.Len
			if i > 0 && pieces[i-1] == p {
				t.Errorf("%+v is there twice", p)
			}
		}
		if !covered {
			t.Errorf("%+v is in no piece", c)
		}
	}
}

func TestHolesStayHoles(t *testing.T) {
	s := Shape{Files: 1, FileBytes: 64 << 20, UsedBytes: 2 << 20}
	dir := t.TempDir()
	if err := s.Fill(dir); err != nil {
		t.Fatal(err)
	}
	if used, err := Allocated(dir); err != nil || used < 2<<20 || used > 4<<20 {
		t.Errorf("the file takes %d bytes: %v", used, err)
	}
}

func read(t *testing.T, dir string, i int) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(dir, File(i)))
	if err != nil {
		t.Fatal(err)
	}
	return b
}
