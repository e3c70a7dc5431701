{{- /* As `splatfleet scheduler-config generate` prints it; a test compares the two. */ -}}
{{- define "splatfleet.schedulerConfiguration" -}}
{{- $full := include "splatfleet.fullname" . -}}
{{- $second := eq .Values.scheduler.mode "second" -}}
{{- $ca := .Values.certificates.caData -}}
{{- if eq .Values.certificates.mode "chart" }}{{ $ca = (include "splatfleet.certificates" . | fromJson).ca }}{{ end -}}
{{- if and (not $ca) (not $second) -}}
{{- fail "certificates.caData: scheduler.mode is configuration and certificates.mode is not chart, so give the extender's CA (base64 of PEM); without it kube-scheduler silently verifies nothing" -}}
{{- end -}}
{{- $tls := dict "serverName" (printf "%s-extender.%s.svc" $full .Release.Namespace) "certFile" "/etc/splatfleet/tls/tls.crt" "keyFile" "/etc/splatfleet/tls/tls.key" -}}
{{- if $ca }}{{ $_ := set $tls "caData" $ca }}{{ else }}{{ $_ := set $tls "caFile" "/etc/splatfleet/tls/ca.crt" }}{{ end -}}
apiVersion: kubescheduler.config.k8s.io/v1
kind: KubeSchedulerConfiguration
{{- if $second }}
leaderElection:
  leaderElect: true
  resourceName: {{ $full }}-scheduler
  resourceNamespace: {{ .Release.Namespace }}
{{- end }}
profiles:
  - schedulerName: {{ .Values.scheduler.name }}
    percentageOfNodesToScore: 100
extenders:
  - urlPrefix: https://{{ $full }}-extender.{{ .Release.Namespace }}.svc:9466
    filterVerb: filter
    prioritizeVerb: prioritize
    preemptVerb: preempt
    weight: {{ .Values.scheduler.weight }}
    nodeCacheCapable: true
    ignorable: true
    httpTimeout: 500ms
    enableHTTPS: true
    tlsConfig: {{- toYaml $tls | nindent 6 }}
    managedResources:
      {{- range include "splatfleet.managedResources" . | fromJsonArray }}
      - name: {{ . }}
        ignoredByScheduler: false
      {{- else }}
      {{- fail "gpuPreset: a pool asks for no GPU resource, and without one kube-scheduler would ask the extender about every pod of the cluster; set scheduler.mode: none and extender.enabled: false, or pools.NAME.resource" }}
      {{- end }}
{{- end }}

{{- /* A lease of one name; creating cannot be limited by name. Call with (list $ component). */ -}}
{{- define "splatfleet.leaseRules" -}}
- apiGroups: [coordination.k8s.io]
  resources: [leases]
  verbs: [create]
- apiGroups: [coordination.k8s.io]
  resources: [leases]
  resourceNames: [{{ include "splatfleet.fullname" (index . 0) }}-{{ index . 1 }}]
  verbs: [get, update, patch]
{{- end }}
