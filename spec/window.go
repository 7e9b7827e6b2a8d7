package spec

import (
	"slices"
	"strconv"
)

// window checks one entry of spec.windows. Whether a moment lies inside a
// window is not answered here yet: NotSupported holds plans that have windows.
func (c checker) window(path string, w *Window) {
	recurring, once := w.Schedule != "" || w.Duration != nil, w.From != nil || w.To != nil
	switch {
	case recurring && once:
		c.addf(path, "a window recurs (schedule and duration) or is once (from and to), never both: write two windows")
	case recurring:
		c.recurring(path, w)
	case !once:
		c.addf(path, "a window needs schedule and duration, or from and to")
	case w.From == nil || w.To == nil:
		c.addf(path, "a window that is once needs both from and to")
	case !w.To.After(w.From.Time):
		c.addf(path+".to", "to must be later than from: nothing could ever start in this window")
	}
	if w.TimeZone != "" && !recurring {
		c.addf(path+".timeZone", "timeZone has no effect on from and to, which carry their own: remove it")
	}
	for i, a := range w.Applies {
		if slices.Index(w.Applies, a) < i {
			c.addf(path+".applies["+strconv.Itoa(i)+"]", "%s is written twice: remove one of them", quote(a))
		}
	}
}

func (c checker) recurring(path string, w *Window) {
	if w.Schedule == "" {
		c.addf(path+".schedule", "schedule is missing: it says when the window opens, such as \"0 22 * * 5\"")
	} else {
		c.schedule(path, w.Schedule, w.TimeZone)
	}
	if w.Duration == nil {
		c.addf(path+".duration", "duration is missing: it says how long the window stays open, such as 6h")
	}
}
