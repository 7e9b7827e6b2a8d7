package spec

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"sigs.k8s.io/yaml"
)

// ErrNewerFormat is in the chain of errors about a record that a newer release
// has written. Nothing may be done on the ground of such a record.
var ErrNewerFormat = errors.New("the record is newer than this release: upgrade the daemon")

// EncodeRun writes a run's record. The same run always gives the same bytes:
// fields are sorted, times are UTC. Type and version are filled in.
func EncodeRun(r *Run) ([]byte, error) {
	out := *r
	return encodeRecord(&out, &out.TypeMeta, KindRun)
}

// DecodeRun reads a run's record, strictly. The error says what is wrong with
// each line; errors.Is finds ErrNewerFormat.
func DecodeRun(data []byte) (*Run, error) {
	r := &Run{}
	if err := decodeRecord(data, r, KindRun); err != nil {
		return nil, err
	}
	return r, nil
}

// EncodeStatus writes a plan's status; see EncodeRun.
func EncodeStatus(s *PlanStatus) ([]byte, error) {
	out := *s
	return encodeRecord(&out, &out.TypeMeta, KindPlanStatus)
}

// DecodeStatus reads a plan's status; see DecodeRun.
func DecodeStatus(data []byte) (*PlanStatus, error) {
	s := &PlanStatus{}
	if err := decodeRecord(data, s, KindPlanStatus); err != nil {
		return nil, err
	}
	return s, nil
}

// EncodeDaemonStatus writes the daemon's status; see EncodeRun.
func EncodeDaemonStatus(s *DaemonStatus) ([]byte, error) {
	out := *s
	return encodeRecord(&out, &out.TypeMeta, KindDaemonStatus)
}

// DecodeDaemonStatus reads the daemon's status; see DecodeRun.
func DecodeDaemonStatus(data []byte) (*DaemonStatus, error) {
	s := &DaemonStatus{}
	if err := decodeRecord(data, s, KindDaemonStatus); err != nil {
		return nil, err
	}
	return s, nil
}

func encodeRecord(record any, meta *TypeMeta, kind string) ([]byte, error) {
	*meta = TypeMeta{APIVersion: APIVersion, Kind: kind}
	data, err := json.Marshal(record)
	if err == nil {
		data, err = yaml.JSONToYAML(escapeControls(data))
	}
	if err != nil {
		return nil, fmt.Errorf("cannot write the record of a %s: %w", kind, err)
	}
	return data, nil
}

// escapeControls writes as \uXXXX what JSON takes inside text and a YAML
// parser does not, such as the DEL that some program's output holds. A message
// must never make its record unwritable.
func escapeControls(data []byte) []byte {
	var out bytes.Buffer
	for _, r := range string(data) {
		if r >= 0x7f && r <= 0x9f || r == 0xfeff || r >= 0xfffe && r <= 0xffff {
			fmt.Fprintf(&out, "\\u%04x", r)
			continue
		}
		out.WriteRune(r)
	}
	return out.Bytes()
}

// decodeRecord refuses whatever this release would not have written: a record
// that somebody edited by hand starts nothing (safety property 12).
func decodeRecord(data []byte, record any, kind string) error {
	if len(data) > maxRecordBytes {
		return fmt.Errorf("cannot read the record of a %s: it has %d bytes, more than %d", kind, len(data), maxRecordBytes)
	}
	root, err := parse(data)
	if err != nil || root == nil {
		return fmt.Errorf("cannot read the record of a %s: it is empty, or no valid YAML (%v)", kind, err)
	}
	h := readHead(root)
	if h.apiVersion != APIVersion {
		if _, v, _ := strings.Cut(h.apiVersion, "/"); strings.HasPrefix(h.apiVersion, Group+"/") && newer(v) {
			return fmt.Errorf("cannot read the record of a %s in format %s: %w", kind, quote(h.apiVersion), ErrNewerFormat)
		}
		return fmt.Errorf("cannot read the record of a %s: format %s is none of Tranship's, which is %s", kind, quote(h.apiVersion), APIVersion)
	}
	if h.kind != kind {
		return fmt.Errorf("cannot read the record of a %s: it is of kind %s", kind, quote(h.kind))
	}
	s := &strictDecoder{budget: maxRecordValues, null: true}
	s.decode(root, record)
	if len(s.problems) == 0 {
		return nil
	}
	said := make([]string, 0, 3)
	for _, p := range s.problems[:min(3, len(s.problems))] {
		said = append(said, fmt.Sprintf("line %d: %s", p.line, p.message))
	}
	return fmt.Errorf("cannot read the record of a %s: %s (%d problems)", kind, strings.Join(said, "; "), len(s.problems))
}
