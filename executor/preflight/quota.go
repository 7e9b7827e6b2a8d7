package preflight

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/tranship/tranship/executor/kube"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
)

// quota compares what the plan brings with what the quotas of the existing
// target namespaces leave: a refusal in the middle of a cutover is too late.
func quota(ctx context.Context, s *state) ([]Finding, error) {
	var found []Finding
	for _, m := range s.Plan().Namespaces {
		if s.targetNS[m.Target()] == nil {
			continue
		}
		quotas, err := s.Target.Kube.CoreV1().ResourceQuotas(m.Target()).List(ctx, metav1.ListOptions{})
		if err != nil {
			return nil, s.Target.Errorf(err, "list the quotas of namespace %s", m.Target())
		}
		needs := demand(s, m.Name)
		for _, q := range quotas.Items {
			if len(q.Spec.Scopes) > 0 || q.Spec.ScopeSelector != nil {
				continue // whether a pod is in its scope is known only to the target
			}
			if short := lacking(needs, &q); len(short) > 0 {
				found = append(found, Finding{Reason: "QuotaExceeded", Object: fmt.Sprintf("target ResourceQuota %s/%s", q.Namespace, q.Name),
					Message: fmt.Sprintf("quota %s of namespace %s on cluster %s leaves too little: %s; raise it", q.Name, q.Namespace, s.Target.Name, strings.Join(short, ", "))})
			}
		}
	}
	return found, nil
}

// demand is what the pods that run now and the claims of a source namespace ask for.
func demand(s *state, namespace string) corev1.ResourceList {
	needs := corev1.ResourceList{}
	for _, i := range s.listed {
		if i.GetNamespace() != namespace || i.GetKind() != "Pod" || i.GVR.Group != "" || kube.Ours(i) || kube.Finished(i) {
			continue
		}
		var p corev1.Pod
		if runtime.DefaultUnstructuredConverter.FromUnstructured(i.Object, &p) != nil {
			continue
		}
		add(needs, corev1.ResourcePods, resource.MustParse("1"))
		for _, c := range p.Spec.Containers {
			for _, r := range []corev1.ResourceName{corev1.ResourceCPU, corev1.ResourceMemory} {
				add(needs, r, c.Resources.Requests[r])
				add(needs, "requests."+r, c.Resources.Requests[r])
				add(needs, "limits."+r, c.Resources.Limits[r])
			}
		}
	}
	for _, v := range s.volumes.Volumes {
		if size, err := resource.ParseQuantity(v.Capacity); v.Namespace == namespace && v.Action != "skip" && err == nil {
			add(needs, corev1.ResourcePersistentVolumeClaims, resource.MustParse("1"))
			add(needs, corev1.ResourceRequestsStorage, size)
			if v.StorageClassName != "" {
				class := v.StorageClassName + ".storageclass.storage.k8s.io/"
				add(needs, corev1.ResourceName(class+"requests.storage"), size)
				add(needs, corev1.ResourceName(class+"persistentvolumeclaims"), resource.MustParse("1"))
			}
		}
	}
	return needs
}

func add(l corev1.ResourceList, name corev1.ResourceName, q resource.Quantity) {
	sum := l[name]
	sum.Add(q)
	l[name] = sum
}

func lacking(needs corev1.ResourceList, q *corev1.ResourceQuota) []string {
	var short []string
	for name, hard := range q.Status.Hard {
		want, ok := needs[name]
		if !ok {
			continue
		}
		free := hard.DeepCopy()
		free.Sub(q.Status.Used[name])
		if want.Cmp(free) > 0 {
			short = append(short, fmt.Sprintf("%s (%s needed, %s free)", name, want.String(), free.String()))
		}
	}
	slices.Sort(short)
	return short
}
