package gitsource

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/format/pktline"
	"github.com/go-git/go-git/v5/plumbing/protocol/packp"
	"github.com/go-git/go-git/v5/plumbing/protocol/packp/capability"
	"github.com/go-git/go-git/v5/plumbing/protocol/packp/sideband"
)

const (
	uploadPack  = "git-upload-pack"
	receivePack = "git-receive-pack"
)

// tip asks for the commit that is read now; zero when there is no such
// reference. With protocol version 2 this is one request, and for one
// reference one line, however many the server has.
func (r *remote) tip(ctx context.Context) (plumbing.Hash, error) {
	all, err := r.list(ctx)
	if err != nil {
		return plumbing.ZeroHash, err
	}
	found, err := r.choose(all)
	if err != nil {
		return plumbing.ZeroHash, err
	}
	r.remember(func() { r.found = found })
	return found.commit, nil
}

func (r *remote) list(ctx context.Context) ([]listed, error) {
	r.mu.Lock()
	proto := r.proto
	r.mu.Unlock()
	if proto == 2 {
		return r.lsRefs(ctx)
	}
	b, err := r.advertised(ctx, uploadPack, proto == 0)
	if err != nil {
		return nil, err
	}
	if bytes.Contains(b[:min(len(b), 200)], []byte("version 2\n")) {
		r.remember(func() { r.proto = 2 })
		return r.lsRefs(ctx)
	}
	refs, err := r.decodeAdvertised(b)
	if err != nil {
		return nil, err
	}
	r.remember(func() { r.proto, r.fetch = 1, refs.Capabilities })
	var all []listed
	for name, hash := range refs.References {
		l := listed{name: name, object: hash, commit: hash}
		if peeled, ok := refs.Peeled[name]; ok {
			l.commit = peeled
		}
		all = append(all, l)
	}
	return all, nil
}

func (r *remote) remember(f func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	f()
}

// forget makes the next exchange ask for the server's capabilities again.
func (r *remote) forget() {
	r.remember(func() { r.proto, r.fetch, r.push = 0, nil, nil })
}

func (r *remote) advertised(ctx context.Context, service string, v2 bool) ([]byte, error) {
	body, err := r.do(ctx, call{
		service: service, v2: v2, max: maxAdvertised, timeout: r.timeout,
	})
	if err != nil {
		return nil, err
	}
	return readAll(body, r.url)
}

func (r *remote) decodeAdvertised(b []byte) (*packp.AdvRefs, error) {
	refs := packp.NewAdvRefs()
	err := refs.Decode(bytes.NewReader(b))
	if err != nil && !errors.Is(err, packp.ErrEmptyAdvRefs) {
		return nil, fail(ErrUnreachable, err, "cannot understand the reference list of %s; check that the url is a Git repository's", r.url)
	}
	return refs, nil
}

func (r *remote) lsRefs(ctx context.Context) ([]listed, error) {
	var b bytes.Buffer
	e := pktline.NewEncoder(&b)
	_ = e.EncodeString("command=ls-refs\n") // writes to a buffer do not fail
	b.WriteString("0001")
	_ = e.EncodeString("peel\n", "ref-prefix "+r.prefix()+"\n")
	_ = e.Flush()
	body, err := r.do(ctx, call{
		service: uploadPack, body: b.Bytes(), v2: true, max: maxAdvertised, timeout: r.timeout,
	})
	if err != nil {
		r.forget()
		return nil, err
	}
	answer, err := readAll(body, r.url)
	if err != nil {
		return nil, err
	}
	var all []listed
	lines := pktline.NewScanner(bytes.NewReader(answer))
	for lines.Scan() {
		words := strings.Fields(string(lines.Bytes()))
		if len(words) == 0 {
			return all, nil // the flush: the list is complete
		}
		if len(words) < 2 || !plumbing.IsHash(words[0]) {
			break
		}
		l := listed{name: words[1], object: plumbing.NewHash(words[0]), commit: plumbing.NewHash(words[0])}
		for _, w := range words[2:] {
			if peeled, ok := strings.CutPrefix(w, "peeled:"); ok {
				l.commit = plumbing.NewHash(peeled)
			}
		}
		all = append(all, l)
	}
	// A list without its end says nothing about the reference: not "missing".
	r.forget()
	return nil, fail(ErrUnreachable, lines.Err(), "cannot understand the reference list of %s; try later", r.url)
}

func (r *remote) capabilities(ctx context.Context, service string) (*capability.List, error) {
	r.mu.Lock()
	caps := r.fetch
	if service == receivePack {
		caps = r.push
	}
	r.mu.Unlock()
	if caps != nil {
		return caps, nil
	}
	b, err := r.advertised(ctx, service, false)
	if err != nil {
		return nil, err
	}
	refs, err := r.decodeAdvertised(b)
	if err != nil {
		return nil, err
	}
	r.remember(func() {
		if service == receivePack {
			r.push = refs.Capabilities
		} else {
			r.fetch = refs.Capabilities
		}
	})
	return refs.Capabilities, nil
}

// download brings want into the store. The request names what the store has
// and its shallow boundary, so the server can send exactly the difference.
// depth 0 keeps the boundary; a positive depth moves it to that many commits.
func (r *remote) download(ctx context.Context, s *store, want plumbing.Hash, depth int) error {
	caps, err := r.capabilities(ctx, uploadPack)
	if err != nil {
		return err
	}
	req, err := r.uploadRequest(s, caps, want, depth)
	if err != nil {
		return err
	}
	var b bytes.Buffer
	if err := errors.Join(req.UploadRequest.Encode(&b), req.UploadHaves.Encode(&b, false), pktline.NewEncoder(&b).EncodeString("done\n")); err != nil {
		return fmt.Errorf("cannot encode a request to %s: %w", r.url, err)
	}
	body, err := r.do(ctx, call{
		service: uploadPack, body: b.Bytes(), max: r.maxPack, timeout: 4 * r.timeout,
	})
	if err != nil {
		r.forget()
		return err
	}
	defer func() { _ = body.Close() }()
	res := packp.NewUploadPackResponse(req)
	if err := res.Decode(body); err != nil {
		r.forget()
		return explain(fmt.Errorf("reading the answer: %w", err), r.url)
	}
	if err := s.receive(demux(req.Capabilities, res)); err != nil {
		return explain(fmt.Errorf("reading the pack: %w", err), r.url)
	}
	return s.moveBoundary(res.Shallows, res.Unshallows)
}

func (r *remote) uploadRequest(s *store, caps *capability.List, want plumbing.Hash, depth int) (*packp.UploadPackRequest, error) {
	// No thin packs: go-git has none. multi_ack changes nothing where "done"
	// follows the haves at once, but Azure DevOps serves nobody without it.
	req := packp.NewUploadPackRequest()
	for _, c := range []capability.Capability{capability.MultiACK, capability.OFSDelta, capability.NoProgress} {
		if caps.Supports(c) {
			_ = req.Capabilities.Set(c) // fails only for capabilities that need a value
		}
	}
	if caps.Supports(capability.Sideband64k) {
		_ = req.Capabilities.Set(capability.Sideband64k)
	}
	shallows, err := s.boundary()
	if err != nil {
		return nil, err
	}
	if len(shallows) > 0 || depth > 0 {
		if !caps.Supports(capability.Shallow) {
			return nil, fail(ErrMisconfigured, nil, "cannot use %s: the server offers no shallow fetch; use a server with Git's smart HTTP protocol", r.url)
		}
		_ = req.Capabilities.Set(capability.Shallow)
	}
	req.Wants, req.Haves, req.Shallows = []plumbing.Hash{r.object(want)}, s.haves(), shallows
	req.Depth = packp.DepthCommits(depth)
	return req, nil
}

func demux(caps *capability.List, r io.Reader) io.Reader {
	if caps.Supports(capability.Sideband64k) {
		return sideband.NewDemuxer(sideband.Sideband64k, r)
	}
	return r
}

// upload asks the server to move the branch from old to new, sending exactly
// the given objects. old is compared by the server. An error does not say
// that the branch was not moved: the caller lists it again.
func (r *remote) upload(ctx context.Context, old, new plumbing.Hash, objects []plumbing.EncodedObject) error {
	caps, err := r.capabilities(ctx, receivePack)
	if err != nil {
		return err
	}
	req := packp.NewReferenceUpdateRequest()
	for _, c := range []capability.Capability{capability.ReportStatus, capability.Sideband64k} {
		if caps.Supports(c) {
			_ = req.Capabilities.Set(c)
		}
	}
	req.Commands = []*packp.Command{{Name: r.branch, Old: old, New: new}}
	pack, err := encodePack(objects)
	if err != nil {
		return err
	}
	req.Packfile = io.NopCloser(bytes.NewReader(pack))
	var b bytes.Buffer
	if err := req.Encode(&b); err != nil {
		return fmt.Errorf("cannot encode a push to %s: %w", r.url, err)
	}
	body, err := r.do(ctx, call{
		service: receivePack, body: b.Bytes(), max: 1 << 20, timeout: r.timeout,
	})
	if err != nil {
		r.forget()
		return err
	}
	answer, err := readAll(body, r.url)
	if err != nil {
		return err
	}
	return r.report(req.Capabilities, answer)
}

// errNotJudged: the server could not read or keep the pack, so that its refusal
// has nothing to do with the branch.
var errNotJudged = errors.New("the pack was not unpacked")

// report reads what the server says of a push. What hooks print is passed on
// to people in the error.
func (r *remote) report(caps *capability.List, answer []byte) error {
	if !caps.Supports(capability.ReportStatus) || len(answer) == 0 {
		return fail(ErrUnreachable, nil, "cannot tell from the answer of %s whether it accepted the push; try later", r.url)
	}
	var said bytes.Buffer
	in := io.Reader(bytes.NewReader(answer))
	if caps.Supports(capability.Sideband64k) {
		d := sideband.NewDemuxer(sideband.Sideband64k, in)
		d.Progress = &said
		in = d
	}
	status := packp.NewReportStatus()
	err := status.Decode(in)
	judged := err == nil && status.UnpackStatus == "ok"
	if err == nil {
		err = status.Error()
	}
	if err == nil {
		return nil
	}
	if !judged {
		err = fmt.Errorf("%w: %w", errNotJudged, err)
	}
	text := oneLine(spoken(said.String()), 300)
	if text != "" {
		text = " (the server says: " + text + ")"
	}
	return fail(ErrRejected, err, "cannot push to branch %s of %s%s; check the branch's protection rules", r.branch.Short(), r.url, text)
}

// spoken is what hooks print, without the word that some hosts put before every
// line, also before empty ones.
func spoken(said string) string {
	var all []string
	for line := range strings.Lines(said) {
		if text := strings.TrimSpace(strings.TrimPrefix(line, "error:")); text != "" {
			all = append(all, text)
		}
	}
	return strings.Join(all, " ")
}
