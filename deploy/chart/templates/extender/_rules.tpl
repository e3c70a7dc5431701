{{- define "splatfleet.extenderRules" -}}
- apiGroups: [""]
  resources: [nodes]
  verbs: [get, list, watch, patch]
- apiGroups: [""]
  resources: [pods]
  verbs: [get, list, watch]
- apiGroups: [resource.k8s.io]
  resources: [resourceclaims, resourceslices, deviceclasses]
  verbs: [get, list, watch]
- apiGroups: [splatfleet.io]
  resources: [predictiveautoscalers]
  verbs: [get, list, watch]
{{- end }}
