package mover

import (
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
)

// fitLimits changes what a container asks for until the limit ranges of its
// namespace admit it, alone in its pod: what it asks for is raised to a
// minimum, what it may use is lowered to a maximum, and where a ratio is set,
// more is asked for. Ranges that contradict each other cannot be satisfied; the
// API server then says so.
func fitLimits(r corev1.ResourceRequirements, ranges []corev1.LimitRange) corev1.ResourceRequirements {
	r = *r.DeepCopy()
	if r.Requests == nil {
		r.Requests = corev1.ResourceList{}
	}
	if r.Limits == nil {
		r.Limits = corev1.ResourceList{}
	}
	var items []corev1.LimitRangeItem
	for _, l := range ranges {
		for _, i := range l.Spec.Limits {
			if i.Type == corev1.LimitTypeContainer || i.Type == corev1.LimitTypePod {
				items = append(items, i)
			}
		}
	}
	// A maximum may lower a limit on which a ratio depends, so ratios come last.
	for _, fit := range []func(corev1.ResourceRequirements, corev1.LimitRangeItem){fitMin, fitMax, fitRatio} {
		for _, i := range items {
			fit(r, i)
		}
	}
	return r
}

func fitMin(r corev1.ResourceRequirements, i corev1.LimitRangeItem) {
	for name, least := range i.Min {
		if have := r.Requests[name]; have.Cmp(least) < 0 {
			r.Requests[name] = least
		}
		if have, limited := r.Limits[name]; limited && have.Cmp(least) < 0 {
			r.Limits[name] = least
		}
	}
}

func fitMax(r corev1.ResourceRequirements, i corev1.LimitRangeItem) {
	for name, most := range i.Max {
		if have, limited := r.Limits[name]; !limited || have.Cmp(most) > 0 {
			r.Limits[name] = most
		}
		if have, asked := r.Requests[name]; asked && have.Cmp(most) > 0 {
			r.Requests[name] = most
		}
	}
}

func fitRatio(r corev1.ResourceRequirements, i corev1.LimitRangeItem) {
	for name, ratio := range i.MaxLimitRequestRatio {
		request, asked := r.Requests[name]
		limit, limited := r.Limits[name]
		switch {
		case limited && ratio.Sign() > 0:
			if least := divided(limit, ratio); request.Cmp(least) < 0 {
				r.Requests[name] = least
			}
		case asked:
			r.Limits[name] = request // without a limit there is no ratio to admit
		}
	}
}

// divided is a by b, rounded up: bytes come whole, the rest in thousandths.
func divided(a, b resource.Quantity) resource.Quantity {
	milli := (a.MilliValue()*1000 + b.MilliValue() - 1) / b.MilliValue()
	if a.Format == resource.BinarySI {
		return *resource.NewQuantity((milli+999)/1000, a.Format)
	}
	return *resource.NewMilliQuantity(milli, a.Format)
}
