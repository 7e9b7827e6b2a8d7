package main

import (
	"context"
	"fmt"
	"time"
)

// patience is how long anything but the runs may take. A machine may be slow,
// and it is only spent by a demonstration that fails.
const patience = 10 * time.Minute

// wait asks every so often until done is true or an error ends it. When the time
// is over it says what it waited for and what was seen last.
func wait(ctx context.Context, what string, limit, every time.Duration, ask func(context.Context) (done bool, seen string, err error)) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	last := "nothing yet"
	for {
		done, seen, err := ask(ctx)
		if err != nil && ctx.Err() == nil {
			return fmt.Errorf("%s: %w", what, err)
		}
		if done && err == nil {
			return nil
		}
		if seen != "" {
			last = seen
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("waited up to %s for %s; seen last: %s", limit, what, last)
		case <-time.After(every):
		}
	}
}
