{{- define "splatfleet.fullname" -}}
{{- if .Values.fullnameOverride }}{{ .Values.fullnameOverride | trunc 40 | trimSuffix "-" }}
{{- else }}{{ $name := default .Chart.Name .Values.nameOverride }}
{{- if contains $name .Release.Name }}{{ .Release.Name | trunc 40 | trimSuffix "-" }}
{{- else }}{{ printf "%s-%s" .Release.Name $name | trunc 40 | trimSuffix "-" }}{{ end }}{{ end }}
{{- end }}

{{- /* Where renderer pods and, with a hostPath, the DaemonSet run. */ -}}
{{- define "splatfleet.scenesNamespace" -}}
{{- if eq .Values.sceneCache.type "ephemeral" }}{{ .Release.Namespace }}
{{- else }}{{ .Values.sceneCache.namespace | default (printf "%s-scenes" .Release.Namespace) }}{{ end }}
{{- end }}

{{- /* Call with (list $ component). */ -}}
{{- define "splatfleet.selector" -}}
{{- $root := index . 0 -}}
app.kubernetes.io/name: {{ $root.Chart.Name }}
app.kubernetes.io/instance: {{ $root.Release.Name }}
app.kubernetes.io/component: {{ index . 1 }}
{{- end }}

{{- define "splatfleet.labels" -}}
{{- $root := index . 0 -}}
{{ include "splatfleet.selector" . }}
app.kubernetes.io/version: {{ $root.Chart.AppVersion | quote }}
app.kubernetes.io/part-of: splatfleet
app.kubernetes.io/managed-by: {{ $root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" $root.Chart.Name $root.Chart.Version }}
{{- end }}

{{- /* Call with (list $ image). */ -}}
{{- define "splatfleet.image" -}}
{{- $root := index . 0 }}{{ $name := index . 1 }}{{ $values := $root.Values -}}
{{- $repository := printf "%s/%s" $values.image.repository $name -}}
{{- if $values.global.imageRegistry }}{{ $repository = printf "%s/%s" $values.global.imageRegistry $repository }}{{ end -}}
{{- $digest := index $values.image.digests $name -}}
{{- if $digest }}{{ printf "%s@%s" $repository $digest }}
{{- else }}{{ printf "%s:%s" $repository ($values.image.tag | default $root.Chart.AppVersion) }}{{ end }}
{{- end }}

{{- define "splatfleet.preset" -}}
{{- $presets := dict
  "a100-40" (dict "resource" "nvidia.com/mig-1g.5gb" "migConfig" "all-1g.5gb" "budgetBytes" 3000000000 "profile" "1g.5gb" "gpus" "0.142857")
  "a100-80" (dict "resource" "nvidia.com/mig-1g.10gb" "migConfig" "all-1g.10gb" "budgetBytes" 7000000000 "profile" "1g.10gb" "gpus" "0.142857")
  "h100" (dict "resource" "nvidia.com/mig-1g.10gb" "migConfig" "all-1g.10gb" "budgetBytes" 7000000000 "profile" "1g.10gb" "gpus" "0.142857")
  "h200" (dict "resource" "nvidia.com/mig-1g.18gb" "migConfig" "all-1g.18gb" "budgetBytes" 14000000000 "profile" "1g.18gb" "gpus" "0.142857")
  "l40s" (dict "resource" "nvidia.com/gpu" "migConfig" "" "budgetBytes" 40000000000 "profile" "" "gpus" "1")
  "cpu" (dict "resource" "" "migConfig" "" "budgetBytes" 2000000000 "profile" "" "gpus" "1") -}}
{{- toJson (index $presets .Values.gpuPreset) }}
{{- end }}

{{- /* tri-state: null detects. Call with (list $ value group/version). */ -}}
{{- define "splatfleet.wanted" -}}
{{- $root := index . 0 }}{{ $value := index . 1 -}}
{{- if kindIs "bool" $value }}{{ if $value }}yes{{ end }}
{{- else if $root.Capabilities.APIVersions.Has (index . 2) }}yes{{ end }}
{{- end }}
