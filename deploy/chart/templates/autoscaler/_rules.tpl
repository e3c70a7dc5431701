{{- define "splatfleet.autoscalerRules" -}}
- apiGroups: [splatfleet.io]
  resources: [predictiveautoscalers]
  verbs: [get, list, watch]
- apiGroups: [splatfleet.io]
  resources: [predictiveautoscalers/status]
  verbs: [get, patch, update]
- apiGroups: [apps]
  resources: [deployments]
  resourceNames: {{ include "splatfleet.poolDeployments" . }}
  verbs: [get]
- apiGroups: [apps]
  resources: [deployments/scale]
  resourceNames: {{ include "splatfleet.poolDeployments" . }}
  verbs: [get, patch, update]
- apiGroups: [""]
  resources: [pods]
  verbs: [get, list, watch, patch]
- apiGroups: [""]
  resources: [events]
  verbs: [create, patch]
{{- end }}

{{- define "splatfleet.poolDeployments" -}}
{{- $found := list }}{{ $full := include "splatfleet.fullname" . -}}
{{- range $name := keys .Values.pools | sortAlpha }}{{ $found = append $found (printf "%s-%s" $full $name) }}{{ end -}}
{{- toJson $found }}
{{- end }}

{{- define "splatfleet.nodeReader" -}}
- apiGroups: [""]
  resources: [nodes]
  verbs: [get, list, watch]
{{- end }}
