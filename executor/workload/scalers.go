package workload

import (
	"github.com/tranship/tranship/executor/kube"
	"github.com/tranship/tranship/reconciler"
)

// scalersFirst are the pairs that a stop deals with in this turn: what scales
// others until its controller has seen that it is paused, and then all. One that
// learns of its pause too late would start again what is stopped.
func scalersFirst(list []pair) []pair {
	if first := unpaused(list); len(first) > 0 {
		return first
	}
	return list
}

// unpaused are those that scale others and may still do so.
func unpaused(list []pair) (first []pair) {
	for _, p := range list {
		if !p.item.exists() || !p.item.kind.scales() {
			continue
		}
		if p.item.runs() || p.recorded != nil && !p.item.observed() {
			first = append(first, p)
		}
	}
	return first
}

// scalersLast are the pairs that a restart deals with in this turn, with their
// verdicts: all but what scales others until the others run again. Before that
// it could take what is being started for idle, and stop it.
func scalersLast(e *kube.Env, list []pair) ([]pair, []verdict, error) {
	var (
		others, scalers   []pair
		verdicts, waiting []verdict
		settled           = true
	)
	for _, p := range list {
		v, err := sourceVerdict(e, p)
		if err != nil {
			return nil, nil, err
		}
		if p.item.kind != nil && p.item.kind.scales() {
			scalers, waiting = append(scalers, p), append(waiting, v)
			continue
		}
		others, verdicts = append(others, p), append(verdicts, v)
		settled = settled && v.seen == reconciler.Succeeded
	}
	if !settled {
		return others, verdicts, nil
	}
	return append(others, scalers...), append(verdicts, waiting...), nil
}
