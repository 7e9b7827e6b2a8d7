package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"

	"github.com/tranship/tranship/test/bed/cluster"
	"github.com/tranship/tranship/test/bed/image"
)

func load(ctx context.Context, args []string) error {
	set, dir := flags("load")
	if err := set.Parse(args); err != nil {
		return err
	}
	if set.NArg() == 0 {
		return errUsage
	}
	for _, tar := range set.Args() {
		if err := loadImage(ctx, cluster.Layout{Dir: *dir}, tar); err != nil {
			return err
		}
		fmt.Println("loaded", tar)
	}
	return nil
}

func makeImage(_ context.Context, args []string) error {
	set, _ := flags("image")
	out := set.String("out", "", "file to write")
	var s image.Spec
	set.StringVar(&s.Ref, "ref", "", "name of the image, such as localhost/app:1")
	set.StringVar(&s.Root, "root", "", "folder of a root file system")
	set.StringVar(&s.User, "user", "", "user of the program")
	set.StringVar(&s.WorkingDir, "workdir", "/", "working folder of the program")
	set.Func("entrypoint", "program and arguments, split at spaces", func(v string) error { s.Entrypoint = strings.Fields(v); return nil })
	set.Func("cmd", "default arguments, split at spaces", func(v string) error { s.Cmd = strings.Fields(v); return nil })
	set.Func("env", "NAME=VALUE, may be repeated", func(v string) error { s.Env = append(s.Env, v); return nil })
	if err := set.Parse(args); err != nil {
		return err
	}
	if *out == "" || s.Ref == "" {
		return errUsage
	}
	for _, arg := range set.Args() {
		f, err := image.ParseFile(arg)
		if err != nil {
			return err
		}
		s.Files = append(s.Files, f)
	}
	return writeImage(*out, s)
}

func execCommand(ctx context.Context, args []string) error {
	set, dir := flags("exec")
	if err := set.Parse(args); err != nil {
		return err
	}
	command := set.Args()
	if len(command) > 1 && command[1] == "--" {
		command = append(command[:1:1], command[2:]...)
	}
	if len(command) < 2 {
		return errUsage
	}
	m := cluster.Layout{Dir: *dir}.Machine(command[0])
	if m.Pid() == 0 {
		return fmt.Errorf("machine %s does not run: see `bed status`", m.Name)
	}
	cmd := m.Command(ctx, command[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	err := cmd.Run()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return &exitError{exit.ExitCode()}
	}
	return err
}
