// Package machine makes "machines": namespaces with a process of ours as process 1,
// which starts programs, starts them again when they die, and collects orphans.
// Killing process 1 kills everything in the machine, pods included.
package machine

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"sync"
	"syscall"
	"time"
)

// Service is a program to keep running in a machine.
type Service struct {
	Name string   `json:"name"`
	Argv []string `json:"argv"`
	Env  []string `json:"env,omitempty"` // added to the environment of process 1
	Log  string   `json:"log"`
}

// ServiceStatus tells how a service is.
type ServiceStatus struct {
	Name     string `json:"name"`
	Pid      int    `json:"pid"` // inside the machine; 0: not running
	Restarts int    `json:"restarts"`
}

type request struct {
	Op      string  `json:"op"` // start, stop, list
	Service Service `json:"service"`
}

type response struct {
	Error    string          `json:"error,omitempty"`
	Services []ServiceStatus `json:"services,omitempty"`
}

// restartAfter leaves a service that cannot start a second before the next try.
const restartAfter = time.Second

type running struct {
	Service
	pid      int
	restarts int
	wanted   bool
}

// initProcess is process 1.
type initProcess struct {
	mu       sync.Mutex
	services map[string]*running
	order    []string
}

// Init is process 1 of the machine whose folder is dir. It ends only with the machine.
func Init(dir string) error {
	p := &initProcess{services: map[string]*running{}}
	signals := make(chan os.Signal, 16)
	signal.Notify(signals, syscall.SIGCHLD, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGINT)
	socket := filepath.Join(dir, "control.sock")
	if err := os.Remove(socket); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("cannot remove the old control socket: %w", err)
	}
	l, err := net.Listen("unix", socket)
	if err != nil {
		return fmt.Errorf("cannot listen for commands: %w", err)
	}
	go p.listen(l)
	for s := range signals {
		switch s {
		case syscall.SIGCHLD:
			p.reap()
		case syscall.SIGTERM:
			return nil
		}
	}
	return nil
}

func (p *initProcess) listen(l net.Listener) {
	for {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		go p.serve(conn)
	}
}

func (p *initProcess) serve(conn net.Conn) {
	defer conn.Close()
	var r request
	var out response
	err := json.NewDecoder(conn).Decode(&r)
	if err == nil {
		out.Services, err = p.handle(r)
	}
	if err != nil {
		out.Error = err.Error()
	}
	json.NewEncoder(conn).Encode(out) //nolint:errcheck // the caller is gone, and there is nobody to tell
}

func (p *initProcess) handle(r request) ([]ServiceStatus, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch r.Op {
	case "start":
		if old := p.services[r.Service.Name]; old != nil && old.pid != 0 {
			return nil, fmt.Errorf("service %s runs already", r.Service.Name)
		}
		if p.services[r.Service.Name] == nil {
			p.order = append(p.order, r.Service.Name)
		}
		s := &running{Service: r.Service, wanted: true}
		p.services[r.Service.Name] = s
		return nil, s.start()
	case "stop":
		s := p.services[r.Service.Name]
		if s == nil {
			return nil, fmt.Errorf("there is no service %s", r.Service.Name)
		}
		s.wanted = false
		if s.pid != 0 {
			return nil, syscall.Kill(s.pid, syscall.SIGKILL)
		}
		return nil, nil
	case "list":
		var out []ServiceStatus
		for _, name := range p.order {
			s := p.services[name]
			out = append(out, ServiceStatus{Name: name, Pid: s.pid, Restarts: s.restarts})
		}
		return out, nil
	}
	return nil, fmt.Errorf("unknown command %q", r.Op)
}

// start forks without os/exec, which waits for its own child: here reap does.
func (s *running) start() error {
	log, err := os.OpenFile(s.Log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return fmt.Errorf("cannot open the log of %s: %w", s.Name, err)
	}
	defer log.Close()
	null, err := os.Open(os.DevNull)
	if err != nil {
		return fmt.Errorf("cannot open %s: %w", os.DevNull, err)
	}
	defer null.Close()
	s.pid, err = syscall.ForkExec(s.Argv[0], s.Argv, &syscall.ProcAttr{
		Dir: "/", Env: append(os.Environ(), s.Env...),
		Files: []uintptr{null.Fd(), log.Fd(), log.Fd()},
		Sys:   &syscall.SysProcAttr{Setsid: true},
	})
	if err != nil {
		s.pid = 0
		return fmt.Errorf("cannot start %s: %w", s.Argv[0], err)
	}
	return nil
}

// reap collects every dead child, ours and orphans, and starts services again.
func (p *initProcess) reap() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for {
		var status syscall.WaitStatus
		pid, err := syscall.Wait4(-1, &status, syscall.WNOHANG, nil)
		if errors.Is(err, syscall.EINTR) {
			continue
		}
		if pid <= 0 || err != nil {
			return
		}
		for _, s := range p.services {
			if s.pid == pid {
				s.pid = 0
				p.restartLater(s)
			}
		}
	}
}

func (p *initProcess) restartLater(s *running) {
	if !s.wanted {
		return
	}
	time.AfterFunc(restartAfter, func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		if !s.wanted || s.pid != 0 || p.services[s.Name] != s {
			return
		}
		s.restarts++
		if err := s.start(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			p.restartLater(s)
		}
	})
}
