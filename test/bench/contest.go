package main

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"time"

	"github.com/tranship/tranship/spec"
	"github.com/tranship/tranship/test/bench/shape"
)

const (
	cutLargeBar  = 0.33
	cutSmallBar  = 0.2
	netBar       = 1.2 // times the changed pieces, each way
	firstStep    = "last-upload"
	lastCopyStep = "last-restore"
	otherSeed    = 2 // of the change that only Velero has to copy
)

func largeFile(ctx context.Context, l *lab, runs int) ([]row, error) {
	s := l.size.large()
	return l.contest(ctx, "large-file", fmt.Sprintf("%d MiB in %d files, 1 %% of the pages changed", s.Bytes()>>20, s.Files), s, cutLargeBar, runs)
}

func smallFiles(ctx context.Context, l *lab, runs int) ([]row, error) {
	s := l.size.small()
	return l.contest(ctx, "small-files", fmt.Sprintf("%d MiB in %d files, 1 %% changed", s.Bytes()>>20, s.Files), s, cutSmallBar, runs)
}

// contest is one kind of volume, moved by the product and by Velero.
type contest struct {
	lab         *lab
	name        string
	shape       shape.Shape
	wire        *wire
	stop, floor sample
	copy, peers sample
	up, down    sample // bytes on the wire
	steps       parts
	floors      parts
	byVelero    parts
}

// contest measures stop.NAME, cut.NAME and network.NAME. Each pair has a volume
// of its own that both have copied once before; who goes first alternates.
func (l *lab) contest(ctx context.Context, name, note string, s shape.Shape, cutBar float64, runs int) ([]row, error) {
	c := &contest{lab: l, name: name, shape: s, wire: l.watchWire(ctx)}
	defer c.wire.stop()
	if err := l.ensureLocation(ctx); err != nil {
		return nil, err
	}
	for i := range runs {
		if err := c.pair(ctx, i); err != nil {
			return nil, err
		}
		fmt.Printf("  pair %d: stopped for %.2f s beyond the application's own, floor %.2f s; copied in %.2f s, Velero in %.2f s; load average %s\n", i+1, c.stop[i], c.floor[i], c.copy[i], c.peers[i], loadAverage())
	}
	fmt.Printf("%s\nstop time without the application's own: %s\nits floor: %s\ncopy after the stop: %s\nby Velero: %s\n", note, c.stop, c.floor, c.copy, c.peers)
	c.steps.print(os.Stdout, "where the stop time went:")
	c.floors.print(os.Stdout, "where the floor's time went:")
	c.byVelero.print(os.Stdout, "where Velero's time went:")
	pieces, _ := s.Pieces(seed)
	var bytes float64
	for _, p := range pieces {
		bytes += float64(p.Len) / 1e6
	}
	stop, floor, cut, peer, sent := c.stop.median(), c.floor.median(), c.copy.median(), c.peers.median(), max(c.up.median(), c.down.median())
	return []row{
		{Name: "stop." + name, Value: stop, Unit: "s", Peer: floorName, PeerValue: floor, Ratio: stop / floor, Bar: stopBar, Pass: stop/floor <= stopBar, Note: note},
		{Name: "cut." + name, Value: cut, Unit: "s", Peer: fsBackupName, PeerValue: peer, Ratio: cut / peer, Bar: cutBar, Pass: cut/peer <= cutBar, Note: note},
		{Name: "network." + name, Value: sent, Unit: "MB", Peer: "the changed 128 KiB pieces, each way", PeerValue: bytes, Ratio: sent / bytes, Bar: netBar, Pass: sent/bytes <= netBar, Note: note},
	}, nil
}

func (c *contest) pair(ctx context.Context, i int) error {
	v, err := c.lab.newVolume(ctx, fmt.Sprintf("%s-%d", c.name, i), "StatefulSet", c.shape)
	if err != nil {
		return err
	}
	f := &fsBackup{volume: v}
	if err := f.backup(ctx); err != nil {
		return err
	}
	if _, err := v.stage(ctx, 1); err != nil {
		return err
	}
	if i%2 == 0 {
		err = c.product(ctx, v, i)
		if err == nil { // the source stands still since
			err = v.startSource(ctx)
		}
		if err == nil {
			err = c.velero(ctx, f, seed)
		}
	} else {
		if err = v.change(ctx, otherSeed); err == nil {
			err = c.velero(ctx, f, otherSeed)
		}
		if err == nil {
			err = c.product(ctx, v, i)
		}
	}
	if err != nil {
		return err
	}
	if err := f.removeVelero(ctx); err != nil {
		return err
	}
	return v.remove(ctx)
}

func (c *contest) product(ctx context.Context, v *volume, i int) error {
	r, err := v.cutover(ctx, seed)
	if err != nil {
		return err
	}
	from, to, err := between(r, firstStep, lastCopyStep)
	if err != nil {
		return err
	}
	up, down := c.wire.between(from, to)
	f, err := v.floor(ctx, i, seed)
	if err != nil {
		return err
	}
	c.stop = append(c.stop, r.Status.StopSeconds-r.Status.OwnSeconds)
	c.copy = append(c.copy, to.Sub(from).Seconds())
	c.up, c.down = append(c.up, up/1e6), append(c.down, down/1e6)
	c.floor = append(c.floor, f.total().Seconds())
	c.steps.addDown(r)
	c.floors.add("walk", f.walk)
	c.floors.add("read", f.read)
	c.floors.add("move", f.move)
	c.floors.add("two pods", f.pods)
	return nil
}

func (c *contest) velero(ctx context.Context, f *fsBackup, seed int) error {
	backup, restore, err := f.move(ctx, seed)
	if err != nil {
		return fmt.Errorf("the copy by Velero failed: %w", err)
	}
	c.peers = append(c.peers, (backup + restore).Seconds())
	c.byVelero.add("backup", backup)
	c.byVelero.add("restore", restore)
	return nil
}

// startSource starts the application on the source again, for Velero copies
// only the volumes of pods that run.
func (v *volume) startSource(ctx context.Context) error {
	if _, err := v.lab.kubectl(ctx, &v.lab.bed.Source, "", "-n", v.plan, "scale", "statefulset/web", "--replicas=1"); err != nil {
		return err
	}
	return v.ready(ctx, &v.lab.bed.Source, v.plan)
}

// change makes the application on the source change its volume.
func (v *volume) change(ctx context.Context, seed int) error {
	ip, err := v.lab.kubectl(ctx, &v.lab.bed.Source, "", "-n", v.plan, "get", "service", "web", "-o", "jsonpath={.spec.clusterIP}")
	if err != nil {
		return err
	}
	ctx, stop := context.WithTimeout(ctx, commandLimit)
	defer stop()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, fmt.Sprintf("http://%s:8080/change?seed=%d", ip, seed), nil)
	if err != nil {
		return fmt.Errorf("cannot ask for a change: %w", err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return fmt.Errorf("cannot ask for a change: %w", err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("the application did not change its volume: %s", resp.Status)
	}
	return nil
}

// copyTime is how long a stage run's two copying steps took.
func copyTime(r *spec.Run) (time.Duration, error) {
	from, to, err := between(r, "upload", "restore-volumes")
	return to.Sub(from), err
}
