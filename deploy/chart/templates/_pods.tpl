{{- /* Everything that "restricted" asks of a pod. */ -}}
{{- define "splatfleet.podSecurity" -}}
enableServiceLinks: false
securityContext:
  runAsNonRoot: true
  runAsUser: 65532
  runAsGroup: 65532
  fsGroup: 65532
  seccompProfile: {type: RuntimeDefault}
{{- with .Values.global.imagePullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
{{- end }}

{{- define "splatfleet.containerSecurity" -}}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities: {drop: [ALL]}
{{- end }}

{{- /* Two replicas on two nodes and in two zones, where there are so many. Call with (list $ component). */ -}}
{{- define "splatfleet.spread" -}}
topologySpreadConstraints:
  - maxSkew: 1
    topologyKey: kubernetes.io/hostname
    whenUnsatisfiable: ScheduleAnyway
    labelSelector:
      matchLabels: {{- include "splatfleet.selector" . | nindent 8 }}
  - maxSkew: 1
    topologyKey: topology.kubernetes.io/zone
    whenUnsatisfiable: ScheduleAnyway
    labelSelector:
      matchLabels: {{- include "splatfleet.selector" . | nindent 8 }}
{{- end }}

{{- /* Probes over HTTP on a named port. A busy node makes a pod slow, and that is no reason to end it: only one that is silent for a minute is. */ -}}
{{- define "splatfleet.probes" -}}
startupProbe:
  httpGet: {path: /-/healthy, port: {{ . }}}
  periodSeconds: 2
  timeoutSeconds: 5
  failureThreshold: 150
livenessProbe:
  httpGet: {path: /-/healthy, port: {{ . }}}
  periodSeconds: 10
  timeoutSeconds: 10
  failureThreshold: 6
readinessProbe:
  httpGet: {path: /-/ready, port: {{ . }}}
  periodSeconds: 5
  timeoutSeconds: 3
{{- end }}

{{- /* Call with (list $ component namespace values). */ -}}
{{- define "splatfleet.serviceAccount" -}}
{{- $root := index . 0 }}{{ $component := index . 1 -}}
apiVersion: v1
kind: ServiceAccount
metadata:
  name: {{ include "splatfleet.fullname" $root }}-{{ $component }}
  namespace: {{ index . 2 }}
  labels: {{- include "splatfleet.labels" (list $root $component) | nindent 4 }}
  {{- with (index . 3).annotations }}
  annotations: {{- toYaml . | nindent 4 }}
  {{- end }}
automountServiceAccountToken: false
{{- end }}

{{- /* Call with (list $ component). */ -}}
{{- define "splatfleet.disruptionBudget" -}}
{{- $root := index . 0 }}{{ $component := index . 1 -}}
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata:
  name: {{ include "splatfleet.fullname" $root }}-{{ $component }}
  namespace: {{ $root.Release.Namespace }}
  labels: {{- include "splatfleet.labels" . | nindent 4 }}
spec:
  maxUnavailable: 1
  selector:
    matchLabels: {{- include "splatfleet.selector" . | nindent 6 }}
{{- end }}

{{- /* One (Cluster)Role with its binding. Call with (list $ component kind namespace rules
serviceAccountNamespace [suffix]). */ -}}
{{- define "splatfleet.role" -}}
{{- $root := index . 0 }}{{ $component := index . 1 }}{{ $kind := index . 2 -}}
{{- $cluster := eq $kind "ClusterRole" -}}
{{- $name := printf "%s-%s" (include "splatfleet.fullname" $root) $component -}}
{{- if gt (len .) 6 }}{{ $name = printf "%s%s" $name (index . 6) }}{{ end -}}
{{- if $cluster }}{{ $name = printf "%s-%s" $root.Release.Namespace $name }}{{ end -}}
apiVersion: rbac.authorization.k8s.io/v1
kind: {{ $kind }}
metadata:
  name: {{ $name }}
  {{- if not $cluster }}
  namespace: {{ index . 3 }}
  {{- end }}
  labels: {{- include "splatfleet.labels" (list $root $component) | nindent 4 }}
rules: {{- toYaml (index . 4) | nindent 2 }}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: {{ $kind }}Binding
metadata:
  name: {{ $name }}
  {{- if not $cluster }}
  namespace: {{ index . 3 }}
  {{- end }}
  labels: {{- include "splatfleet.labels" (list $root $component) | nindent 4 }}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: {{ $kind }}, name: {{ $name }}}
subjects:
  - {kind: ServiceAccount, name: {{ include "splatfleet.fullname" $root }}-{{ $component }}, namespace: {{ index . 5 }}}
{{- end }}

{{- /* The object store's credentials as environment, by reference. */ -}}
{{- define "splatfleet.objectStoreEnv" -}}
{{- with .Values.credentials.objectStoreSecret }}
envFrom:
  - secretRef: {name: {{ . }}}
{{- end }}
{{- end }}

{{- define "splatfleet.catalogueName" -}}
{{ .Values.catalogue.existingConfigMap | default (printf "%s-catalogue" (include "splatfleet.fullname" .)) }}
{{- end }}

{{- define "splatfleet.agentTokenName" -}}
{{ .Values.credentials.sceneAgentTokenSecret | default (printf "%s-agent-token" (include "splatfleet.fullname" .)) }}
{{- end }}

{{- /* The store of scenes as a volume named scenes. */ -}}
{{- define "splatfleet.sceneVolume" -}}
- name: scenes
  {{- if eq .Values.sceneCache.type "hostPath" }}
  hostPath: {path: {{ .Values.sceneCache.hostPath }}, type: DirectoryOrCreate}
  {{- else }}
  ephemeral:
    volumeClaimTemplate:
      spec:
        accessModes: [ReadWriteOnce]
        resources: {requests: {storage: {{ .Values.sceneCache.capacityBytes | int64 | quote }}}}
  {{- end }}
{{- end }}

{{- /* Pools by name, the default one (renderer, else the first by name) first, as --pool flags. */ -}}
{{- define "splatfleet.poolFlags" -}}
{{- $names := keys (include "splatfleet.pools" . | fromJson) | sortAlpha -}}
{{- if has "renderer" $names }}{{ $names = concat (list "renderer") (without $names "renderer") }}{{ end -}}
{{- range $names }}
- --pool={{ . }}
{{- end }}
{{- end }}

{{- /* Every resource that a renderer pod may ask for, for kube-scheduler. */ -}}
{{- define "splatfleet.managedResources" -}}
{{- $preset := include "splatfleet.preset" . | fromJson }}{{ $found := .Values.scheduler.extraManagedResources -}}
{{- range include "splatfleet.pools" . | fromJson }}{{ $found = append $found (.resource | default $preset.resource) }}{{ end -}}
{{- toJson (without ($found | uniq | sortAlpha) "") }}
{{- end }}

{{- /* The pools that are not switched off; a value that was once set cannot be taken away by an upgrade. */ -}}
{{- define "splatfleet.pools" -}}
{{- $found := dict -}}
{{- range $name, $pool := .Values.pools }}{{ if dig "enabled" true $pool }}{{ $_ := set $found $name $pool }}{{ end }}{{ end -}}
{{- toJson $found }}
{{- end }}
