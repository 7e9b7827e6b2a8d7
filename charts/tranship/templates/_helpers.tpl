{{- define "tranship.selector" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "tranship.meta" -}}
name: {{ .Release.Name }}
namespace: {{ .Release.Namespace }}
labels:
  {{- include "tranship.selector" . | nindent 2 }}
  app.kubernetes.io/managed-by: {{ .Release.Service }}
  helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end }}

{{- /* What the program may take of its memory limit; the rest is for what the Go runtime does not count. */ -}}
{{- define "tranship.heap" -}}
{{- $mib := regexFind "^[0-9]+" .Values.memory | int64 -}}
{{- if hasSuffix "Gi" .Values.memory }}{{ $mib = mul $mib 1024 }}{{ end -}}
{{- div (mul $mib 85) 100 }}MiB
{{- end }}
