package engine

import (
	"bufio"
	"bytes"
	"net/url"
	"os"
	"strconv"
	"strings"
)

// secrets are what a run must never say.
type secrets struct {
	accessKey, secretKey, sessionToken, password string
}

// readSecrets reads the two files that a request names.
func readSecrets(credentialsFile, passwordFile string) (secrets, error) {
	var s secrets
	raw, err := os.ReadFile(credentialsFile)
	if err != nil {
		return s, fail(ReasonCredentialsUnreadable, err, "cannot read the store's credentials")
	}
	s.parseProfile(raw)
	if s.accessKey == "" || s.secretKey == "" {
		return s, fail(ReasonCredentialsUnreadable, nil,
			"%s has no [default] profile with aws_access_key_id and aws_secret_access_key", credentialsFile)
	}
	pw, err := os.ReadFile(passwordFile)
	if err != nil {
		return s, fail(ReasonCredentialsUnreadable, err, "cannot read the repository's password")
	}
	s.password = strings.TrimRight(string(pw), "\r\n")
	if s.password == "" {
		return s, fail(ReasonCredentialsUnreadable, nil, "the password file %s is empty", passwordFile)
	}
	return s, nil
}

// parseProfile reads the [default] profile of an AWS credentials file.
func (s *secrets) parseProfile(raw []byte) {
	inDefault := false
	for sc := bufio.NewScanner(bytes.NewReader(raw)); sc.Scan(); {
		line := strings.TrimSpace(sc.Text())
		if strings.HasPrefix(line, "[") {
			inDefault = strings.TrimSpace(strings.Trim(line, "[]")) == "default"
			continue
		}
		key, value, ok := strings.Cut(line, "=")
		if !inDefault || !ok {
			continue
		}
		value = strings.TrimSpace(value)
		switch strings.TrimSpace(key) {
		case "aws_access_key_id":
			s.accessKey = value
		case "aws_secret_access_key":
			s.secretKey = value
		case "aws_session_token":
			s.sessionToken = value
		}
	}
}

// clean removes every secret from a text that others will read. Libraries below us write their own
// errors; this is the last look at them.
func (s secrets) clean(text string) string {
	for _, v := range []string{s.secretKey, s.password, s.sessionToken, s.accessKey} {
		if len(v) < 4 {
			continue // too short to tell from ordinary text, and no real secret
		}
		quoted := strings.Trim(strconv.Quote(v), `"`)
		for _, form := range []string{v, url.QueryEscape(v), url.PathEscape(v), quoted} {
			text = strings.ReplaceAll(text, form, "[redacted]")
		}
	}
	return text
}
