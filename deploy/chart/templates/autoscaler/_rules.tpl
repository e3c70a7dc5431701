{{- define "splatfleet.autoscalerRules" -}}
- apiGroups: [splatfleet.io]
  resources: [predictiveautoscalers]
  verbs: [get, list, watch]
- apiGroups: [splatfleet.io]
  resources: [predictiveautoscalers/status]
  verbs: [patch]
- apiGroups: [apps]
  resources: [deployments]
  verbs: [get, list, watch]
- apiGroups: [apps]
  resources: [deployments/scale]
  resourceNames: {{ include "splatfleet.poolDeployments" . }}
  verbs: [get, patch]
- apiGroups: [""]
  resources: [pods]
  verbs: [get, list, watch, patch{{ if .Values.autoscaler.placeholders.enabled }}, create, delete{{ end }}]
- apiGroups: [""]
  resources: [events]
  verbs: [create, patch]
- apiGroups: [autoscaling]
  resources: [horizontalpodautoscalers]
  verbs: [get, list, watch]
- apiGroups: [keda.sh]
  resources: [scaledobjects]
  verbs: [list]
{{- end }}

{{- define "splatfleet.placeholderClass" -}}
{{ .Release.Namespace }}-{{ include "splatfleet.fullname" . }}-placeholder
{{- end }}

{{- define "splatfleet.poolDeployments" -}}
{{- $found := list }}{{ $full := include "splatfleet.fullname" . -}}
{{- range $name := keys (include "splatfleet.pools" . | fromJson) | sortAlpha }}{{ $found = append $found (printf "%s-%s" $full $name) }}{{ end -}}
{{- toJson $found }}
{{- end }}

{{- define "splatfleet.autoscalerNodeRules" -}}
- apiGroups: [""]
  resources: [nodes]
  verbs: [get, list, watch{{ if .Values.scheduler.sceneLabels.enabled }}, patch{{ end }}]
{{- end }}

{{- /* Creating cannot be limited by name. */ -}}
{{- define "splatfleet.autoscalerLeaseRules" -}}
- apiGroups: [coordination.k8s.io]
  resources: [leases]
  verbs: [create]
- apiGroups: [coordination.k8s.io]
  resources: [leases]
  resourceNames: [splatfleet-autoscaler]
  verbs: [get, update]
{{- end }}
