{{- /* CA and leaves, base64, as JSON; made once a rendering and kept over upgrades. Renewed when they are deleted. */ -}}
{{- define "splatfleet.certificates" -}}
{{- if not (hasKey .Values.certificates "made") -}}
{{- $full := include "splatfleet.fullname" . }}{{ $namespace := .Release.Namespace -}}
{{- $days := int .Values.certificates.validityDays -}}
{{- $names := list "extender" "scheduler" "monitoring" -}}
{{- $kept := lookup "v1" "Secret" $namespace (printf "%s-ca" $full) -}}
{{- $ca := dict -}}
{{- if $kept }}{{ $ca = buildCustomCert (index $kept.data "tls.crt") (index $kept.data "tls.key") -}}
{{- else }}{{ $ca = genCA (printf "%s-ca" $full) 3650 }}{{ end -}}
{{- $leaves := dict -}}
{{- range $name := $names -}}
{{- $old := lookup "v1" "Secret" $namespace (printf "%s-%s-tls" $full $name) -}}
{{- if and $kept $old -}}
{{- $_ := set $leaves $name (dict "crt" (index $old.data "tls.crt") "key" (index $old.data "tls.key")) -}}
{{- else -}}
{{- $leaf := genSignedCert (printf "%s-%s" $full $name) nil (list (printf "%s-extender.%s.svc" $full $namespace)) $days $ca -}}
{{- $_ := set $leaves $name (dict "crt" ($leaf.Cert | b64enc) "key" ($leaf.Key | b64enc)) -}}
{{- end -}}
{{- end -}}
{{- $_ := set .Values.certificates "made" (dict "ca" ($ca.Cert | b64enc) "caKey" ($ca.Key | b64enc) "leaves" $leaves) -}}
{{- end -}}
{{- toJson .Values.certificates.made }}
{{- end }}

{{- /* Name of the secret that holds a certificate. Call with (list $ name). */ -}}
{{- define "splatfleet.tlsSecret" -}}
{{- $root := index . 0 }}{{ $name := index . 1 -}}
{{- if eq $root.Values.certificates.mode "existing" -}}
{{ index $root.Values.certificates.existingSecrets $name | required (printf "certificates.existingSecrets.%s: certificates.mode is existing, so name the secret with ca.crt, tls.crt and tls.key" $name) }}
{{- else }}{{ include "splatfleet.fullname" $root }}-{{ $name }}-tls{{ end }}
{{- end }}
