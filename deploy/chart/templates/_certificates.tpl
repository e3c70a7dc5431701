{{- /* Leaves by name: the DNS name of the one that serves, and the namespace of its secret. */ -}}
{{- define "splatfleet.leaves" -}}
{{- $full := include "splatfleet.fullname" . }}{{ $own := .Release.Namespace -}}
{{- $extender := printf "%s-extender.%s.svc" $full $own }}{{ $autoscaler := printf "%s-autoscaler.%s.svc" $full $own -}}
{{- $found := dict -}}
{{- if .Values.extender.enabled -}}
{{- $_ := set $found "extender" (dict "host" $extender "namespace" $own "use" "server auth") -}}
{{- $_ := set $found "scheduler" (dict "host" $extender "namespace" $own "use" "client auth") -}}
{{- $_ := set $found "monitoring" (dict "host" $extender "namespace" $own "use" "client auth") -}}
{{- end -}}
{{- if and (eq .Values.certificates.mode "chart") (include "splatfleet.kedaTls" .) -}}
{{- $_ := set $found "autoscaler" (dict "host" $autoscaler "namespace" $own "use" "server auth") -}}
{{- $_ := set $found "keda" (dict "host" $autoscaler "namespace" (include "splatfleet.scenesNamespace" .) "use" "client auth") -}}
{{- end -}}
{{- toJson $found }}
{{- end }}

{{- /* Whether KEDA is spoken to over TLS: cert-manager cannot put one CA into two namespaces, so there the secrets are given. */ -}}
{{- define "splatfleet.kedaTls" -}}
{{- if eq .Values.scaling.mode "keda" -}}
{{- if eq .Values.certificates.mode "chart" }}yes
{{- else if and .Values.certificates.existingSecrets.autoscaler .Values.certificates.existingSecrets.keda }}yes{{ end -}}
{{- end -}}
{{- end }}

{{- /* CA and leaves, base64, as JSON; made once a rendering, kept over upgrades, and made anew by the first upgrade in
the last third of their time. Everybody who has one reads it again, so that nothing restarts. */ -}}
{{- define "splatfleet.certificates" -}}
{{- if not (hasKey .Values.certificates "made") -}}
{{- $full := include "splatfleet.fullname" . }}{{ $namespace := .Release.Namespace -}}
{{- $days := int .Values.certificates.validityDays -}}
{{- $now := now | unixEpoch | int64 -}}
{{- $kept := lookup "v1" "Secret" $namespace (printf "%s-ca" $full) -}}
{{- $ca := dict -}}
{{- if $kept }}{{ $ca = buildCustomCert (index $kept.data "tls.crt") (index $kept.data "tls.key") -}}
{{- else }}{{ $ca = genCA (printf "%s-ca" $full) 3650 }}{{ end -}}
{{- $leaves := dict -}}
{{- range $name, $wanted := include "splatfleet.leaves" . | fromJson -}}
{{- $old := lookup "v1" "Secret" $wanted.namespace (printf "%s-%s-tls" $full $name) -}}
{{- $renew := dig "metadata" "annotations" "splatfleet.io/renew-after" "0" ($old | default dict) | int64 -}}
{{- if and $kept $old (lt $now $renew) -}}
{{- $_ := set $leaves $name (dict "crt" (index $old.data "tls.crt") "key" (index $old.data "tls.key") "renewAfter" (toString $renew)) -}}
{{- else -}}
{{- $leaf := genSignedCert (printf "%s-%s" $full $name) nil (list $wanted.host) $days $ca -}}
{{- $after := add $now (mul $days 57600) -}}
{{- $_ := set $leaves $name (dict "crt" ($leaf.Cert | b64enc) "key" ($leaf.Key | b64enc) "renewAfter" (toString $after)) -}}
{{- end -}}
{{- end -}}
{{- $_ := set .Values.certificates "made" (dict "ca" ($ca.Cert | b64enc) "caKey" ($ca.Key | b64enc) "leaves" $leaves) -}}
{{- end -}}
{{- toJson .Values.certificates.made }}
{{- end }}

{{- /* Name of the secret that holds a certificate. Call with (list $ name). */ -}}
{{- define "splatfleet.tlsSecret" -}}
{{- $root := index . 0 }}{{ $name := index . 1 }}{{ $mode := $root.Values.certificates.mode -}}
{{- $given := index $root.Values.certificates.existingSecrets $name -}}
{{- if and $given (ne $mode "chart") }}{{ $given }}
{{- else if eq $mode "existing" -}}
{{- fail (printf "certificates.existingSecrets.%s: certificates.mode is existing, so name the secret with ca.crt, tls.crt and tls.key" $name) }}
{{- else }}{{ include "splatfleet.fullname" $root }}-{{ $name }}-tls{{ end }}
{{- end }}
