{{- /* DNS and the API server. */ -}}
{{- define "splatfleet.egressBase" -}}
- to:
    - namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: kube-system}}
      podSelector: {matchLabels: {k8s-app: kube-dns}}
  ports:
    - {port: 53, protocol: UDP}
    - {port: 53, protocol: TCP}
{{- end }}

{{- define "splatfleet.egressApi" -}}
- to:
    - ipBlock: {cidr: {{ .Values.networkPolicy.apiServerCidr }}}
  ports:
    - {port: 443, protocol: TCP}
    - {port: 6443, protocol: TCP}
{{- end }}

{{- define "splatfleet.fromPrometheus" -}}
- namespaceSelector: {{- toYaml .Values.networkPolicy.prometheus.namespaceSelector | nindent 4 }}
  podSelector: {{- toYaml .Values.networkPolicy.prometheus.podSelector | nindent 4 }}
{{- end }}

{{- /* A peer: our pods of a component. Call with (list $ component namespace). */ -}}
{{- define "splatfleet.peer" -}}
{{- $root := index . 0 -}}
- namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: {{ index . 2 }}}}
  podSelector:
    matchLabels: {{- include "splatfleet.selector" . | nindent 6 }}
{{- end }}

{{- /* Renderer pods of every pool of this release. */ -}}
{{- define "splatfleet.rendererPeer" -}}
- namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: {{ include "splatfleet.scenesNamespace" . }}}}
  podSelector:
    matchLabels: {app.kubernetes.io/instance: {{ .Release.Name }}}
    matchExpressions: [{key: splatfleet.io/pool, operator: Exists}]
{{- end }}

{{- define "splatfleet.policyHead" -}}
{{- $root := index . 0 -}}
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata:
  name: {{ include "splatfleet.fullname" $root }}-{{ index . 1 }}
  namespace: {{ index . 2 }}
  labels: {{- include "splatfleet.labels" . | nindent 4 }}
{{- end }}
