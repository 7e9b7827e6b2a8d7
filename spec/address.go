package spec

import (
	"net"
	"net/url"
	"regexp"
	"strings"
)

// SSH is the address of a repository on an SSH server.
type SSH struct {
	User string // default git
	Host string
	Port string // default 22
	Path string // as the server shall see it
}

// scpLike is the short form of Git's own client. The user is a part of it:
// without one it looks like a host and a port.
var scpLike = regexp.MustCompile(`^([A-Za-z0-9_][-A-Za-z0-9_.]*)@([A-Za-z0-9][-A-Za-z0-9.]*):(.+)$`)

// SSHAddress reads an address such as ssh://git@example.com:2222/team/plans.git
// or git@example.com:team/plans.git; ok is false for everything else.
func SSHAddress(raw string) (a SSH, ok bool) {
	if m := scpLike.FindStringSubmatch(raw); m != nil {
		a = SSH{User: m[1], Host: m[2], Port: "22", Path: m[3]}
	} else {
		u, err := url.Parse(raw)
		if err != nil || u.Scheme != "ssh" || u.RawQuery != "" || u.Fragment != "" {
			return SSH{}, false
		}
		if _, password := u.User.Password(); password {
			return SSH{}, false
		}
		a = SSH{User: either(u.User.Username(), "git"), Host: u.Hostname(), Port: either(u.Port(), "22"), Path: u.Path}
		if home := strings.TrimPrefix(a.Path, "/"); strings.HasPrefix(home, "~") {
			a.Path = home // as Git's own client does
		}
	}
	// A path that starts like an option could be read as one on the server.
	bad := a.Host == "" || strings.Trim(a.Path, "/") == "" || strings.HasPrefix(a.Path, "-") ||
		strings.ContainsFunc(a.Path, func(r rune) bool { return r < ' ' || r == 0x7f })
	return a, !bad
}

// String is the ssh:// form.
func (a SSH) String() string {
	host := a.Host
	if a.Port != "22" {
		host = net.JoinHostPort(a.Host, a.Port)
	} else if strings.Contains(host, ":") {
		host = "[" + host + "]"
	}
	return "ssh://" + a.User + "@" + host + "/" + strings.TrimPrefix(a.Path, "/")
}
