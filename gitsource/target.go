package gitsource

import (
	"strings"

	"github.com/Masterminds/semver/v3"
	"github.com/go-git/go-git/v5/plumbing"

	"github.com/tranship/tranship/spec"
)

// listed is a reference as the server lists it. An annotated tag is an object
// of its own, and servers send a commit behind it only to who asks for that.
type listed struct {
	name           string
	object, commit plumbing.Hash
}

const tagPrefix = "refs/tags/"

// aim sets what is read: the one of branch, tag, semver and ref that is set.
func (r *remote) aim(repo spec.Repository) error {
	field, value := repo.Reads()
	r.field, r.said = field, field+" "+value
	var err error
	switch field {
	case "branch":
		r.branch = plumbing.NewBranchReferenceName(value)
	case "tag":
		r.branch = plumbing.NewTagReferenceName(value)
	case "ref":
		r.branch = plumbing.ReferenceName(value)
	case "semver":
		r.said = "a tag within " + value
		if r.tags, err = semver.NewConstraint(value); err != nil {
			return fail(ErrMisconfigured, nil, "cannot use semver %q of %s: it is no range of versions; write one such as >=1.2.0 <2.0.0", value, r.url)
		}
		return nil
	}
	if err := r.branch.Validate(); err != nil || strings.Contains(value, "..") || !strings.HasPrefix(r.branch.String(), "refs/") {
		return fail(ErrMisconfigured, nil, "cannot use %s %q of %s: it is not a %s name; correct it", field, value, r.url, field)
	}
	return nil
}

// prefix is what a server is asked to list.
func (r *remote) prefix() string {
	if r.tags != nil {
		return tagPrefix
	}
	return r.branch.String()
}

// choose finds what is read among the references; the zero value when it is
// not there. Of a range it is the newest version, and two tags that claim to
// be that one are refused: nobody could say which one was meant.
func (r *remote) choose(all []listed) (listed, error) {
	var best, twin listed
	var newest *semver.Version
	for _, l := range all {
		if r.tags == nil {
			if l.name == r.branch.String() {
				return l, nil
			}
			continue
		}
		tag, ok := strings.CutPrefix(l.name, tagPrefix)
		if !ok {
			continue
		}
		// Strict: a tag such as 20261129 is no version, least of all the newest.
		v, err := semver.StrictNewVersion(strings.TrimPrefix(tag, "v"))
		if err != nil || !r.tags.Check(v) {
			continue
		}
		switch {
		case newest == nil || v.GreaterThan(newest):
			best, twin, newest = l, listed{}, v
		case v.Equal(newest) && l.commit != best.commit:
			twin = l
		}
	}
	if twin.name != "" {
		return listed{}, fail(ErrMisconfigured, nil, "cannot tell what to read of %s: %s and %s are the same version and different commits; delete one of them", r.url, best.name, twin.name)
	}
	return best, nil
}

// object is what the server knows the commit as: the tag that points to it, or
// the commit itself.
func (r *remote) object(commit plumbing.Hash) plumbing.Hash {
	r.mu.Lock()
	defer r.mu.Unlock()
	if commit == r.found.commit {
		return r.found.object
	}
	return commit
}
