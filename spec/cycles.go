package spec

import (
	"fmt"
	"strings"
)

// cycles finds the plans that wait for each other: the strongly connected parts
// of the graph of dependsOn, by Tarjan's algorithm. Plans that only lead to such
// a part are not in it.
type cycles struct {
	to    map[string][]string
	part  map[string]int // of plans that are in a cycle
	index map[string]int
	low   map[string]int
	stack []string
	on    map[string]bool
}

func (a *assembly) cycles() *cycles {
	c := &cycles{to: map[string][]string{}, part: map[string]int{}, index: map[string]int{}, low: map[string]int{}, on: map[string]bool{}}
	plans := a.names[KindMigrationPlan]
	for _, name := range plans {
		for _, d := range a.byKey[documentKey(KindMigrationPlan, name)] {
			if p, ok := d.partial.(*MigrationPlan); ok {
				c.to[name] = append(c.to[name], p.Spec.DependsOn...)
			}
		}
	}
	for _, name := range plans {
		if c.index[name] == 0 && len(c.to[name]) > 0 {
			c.visit(name)
		}
	}
	return c
}

func (c *cycles) visit(name string) {
	n := len(c.index) + 1
	c.index[name], c.low[name] = n, n
	c.stack, c.on[name] = append(c.stack, name), true
	for _, next := range c.to[name] {
		if c.index[next] == 0 {
			c.visit(next)
			c.low[name] = min(c.low[name], c.low[next])
		} else if c.on[next] {
			c.low[name] = min(c.low[name], c.index[next])
		}
	}
	if c.low[name] != n {
		return
	}
	for first := true; ; first = false {
		last := c.stack[len(c.stack)-1]
		c.stack, c.on[last] = c.stack[:len(c.stack)-1], false
		if last != name || !first {
			c.part[last] = n
		}
		if last == name {
			return
		}
	}
}

// problem says that the reference of one plan to another closes a cycle.
func (c *cycles) problem(doc *Document, path, to string) []Problem {
	if c.part[doc.Name] == 0 || c.part[doc.Name] != c.part[to] || doc.Name == to {
		return nil
	}
	return []Problem{doc.problem(path, fmt.Sprintf("plans that wait for each other never start: %s; remove one of these references", c.way(to, doc.Name)))}
}

// wayLength bounds what a sentence names of a cycle.
const wayLength = 8

// way is the shortest chain of references inside a cycle.
func (c *cycles) way(from, to string) string {
	before := map[string]string{from: ""}
	for queue := []string{from}; len(queue) > 0 && before[to] == "" && len(before) < 1000; queue = queue[1:] {
		for _, next := range c.to[queue[0]] {
			if _, seen := before[next]; !seen && c.part[next] == c.part[from] {
				before[next] = queue[0]
				queue = append(queue, next)
			}
		}
	}
	names := []string{to}
	for at := before[to]; at != "" && len(names) < wayLength; at = before[at] {
		names = append([]string{at}, names...)
	}
	if names[0] != from {
		names = append([]string{from, "..."}, names...)
	}
	return strings.Join(append([]string{to}, names...), " depends on ")
}
