package preflight

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"
	"github.com/tranship/tranship/spec"
)

// TestAStoreThatIsBusyIsWaitedFor: a store that starts again or throttles costs no
// approval; what only people can mend ends the run at once.
func TestAStoreThatIsBusyIsWaitedFor(t *testing.T) {
	r := &spec.RepositorySpec{Bucket: "copies", Credentials: &spec.SecretRef{From: "store"}}
	cases := []struct {
		status  int // 0: nobody listens
		code    string
		passing bool
	}{
		{0, "", true},
		{http.StatusServiceUnavailable, "SlowDown", true},
		{http.StatusInternalServerError, "InternalError", true},
		{http.StatusTooManyRequests, "TooManyRequests", true},
		{http.StatusForbidden, "AccessDenied", false},
		{http.StatusForbidden, "InvalidAccessKeyId", false},
		{http.StatusMovedPermanently, "PermanentRedirect", false},
	}
	for _, c := range cases {
		t.Run(fmt.Sprint(c.status, c.code), func(t *testing.T) {
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Content-Type", "application/xml")
				w.WriteHeader(c.status)
				fmt.Fprintf(w, "<Error><Code>%s</Code><Message>no</Message></Error>", c.code)
			}))
			defer server.Close()
			if c.status == 0 {
				server.Close()
			}
			client, err := minio.New(strings.TrimPrefix(server.URL, "http://"), &minio.Options{
				Creds: credentials.NewStaticV4("a", "b", ""), Region: "here", MaxRetries: 1, BucketLookup: minio.BucketLookupPath,
			})
			if err != nil {
				t.Fatal(err)
			}
			says, passing := storeProblem(list(context.Background(), client, r), "main", server.URL, r)
			if passing != c.passing || !strings.Contains(says, "ReplicationRepository main") {
				t.Errorf("passing is %v, not %v: %s", passing, c.passing, says)
			}
		})
	}
}
