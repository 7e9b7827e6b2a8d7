package main

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// validateSays runs `tranship validate`.
func validateSays(t *testing.T, args ...string) (code int, out string) {
	t.Helper()
	c := validateCommand()
	var b bytes.Buffer
	c.SetOut(&b)
	c.SetErr(&b)
	c.SetArgs(args)
	c.SilenceUsage, c.SilenceErrors = true, true
	err := c.Execute()
	var exit exitError
	switch {
	case err == nil:
	case errors.As(err, &exit):
		code = int(exit)
	default:
		t.Fatal(err)
	}
	return code, b.String()
}

func TestValidateReadsWhatTheDaemonReads(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) string {
		t.Helper()
		file := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return file
	}
	daemon := func(shard string) string {
		return write(shard+".conf", "apiVersion: tranship.dev/v1alpha1\nkind: DaemonConfig\nmetadata: {name: "+shard+"}\nspec:\n"+
			"  source: {url: 'https://git.example.com/plans.git', ignore: [/drafts/]}\n  mover: {image: x}\n  shard: {name: "+shard+", paths: [plans/"+strings.TrimPrefix(shard, "all-")+"]}\n")
	}
	east, west, all := daemon("east"), daemon("west"), daemon("all-east")
	write("plans/broken.yaml", "{{{")
	write("drafts/broken.yaml", "{{{")
	if code, out := validateSays(t, dir); code != 1 || !strings.Contains(out, ": 2 problems") {
		t.Errorf("%d %s", code, out)
	}
	write("plans/.transhipignore", "broken.*\n")
	if code, out := validateSays(t, "--config", east, dir); code != 0 || !strings.Contains(out, "2 files ignored: 0 problems") {
		t.Errorf("%d %s", code, out)
	}
	write("plans/.transhipignore", "broken.*\na[\n")
	if code, out := validateSays(t, "--config", east, dir); code != 1 || !strings.Contains(out, "plans/.transhipignore:2: \"a[\" cannot be matched") {
		t.Errorf("%d %s", code, out)
	}
	if code, out := validateSays(t, "--config", east, "--config", west); code != 0 {
		t.Errorf("%d %s", code, out)
	}
	write("plans/.transhipignore", "broken.*\n")
	nobody := write("plans/north/shop.yaml", "apiVersion: tranship.dev/v1alpha1\nkind: MigrationPlan\nmetadata: {name: shop}\nspec: {stat: x}\n")
	says := nobody + `:3: metadata: MigrationPlan "shop" belongs to no shard of these configurations`
	if code, out := validateSays(t, "--config", east, "--config", west, dir); code != 1 || !strings.Contains(out, says) {
		t.Errorf("%d %s", code, out)
	}
	waits := write("plans/east/web.yaml", "apiVersion: tranship.dev/v1alpha1\nkind: MigrationPlan\nmetadata: {name: web}\nspec: {dependsOn: [shop]}\n")
	if _, out := validateSays(t, "--config", east, dir); !strings.Contains(out, waits+`:4: spec.dependsOn[0]: MigrationPlan "shop" belongs to another shard`) {
		t.Errorf("its daemon refuses that: %s", out)
	}
	if _, out := validateSays(t, "--config", east, dir); strings.Contains(out, "belongs to no shard") {
		t.Errorf("one configuration says nothing of others: %s", out)
	}
	if code, out := validateSays(t, "--config", east, "--config", west, "--config", all); code != 1 || !strings.Contains(out, `spec.shard: configurations "east" and "all-east" both run the plans below "plans/east"`) {
		t.Errorf("%d %s", code, out)
	}
}
