{{- define "splatfleet.podReader" -}}
- apiGroups: [""]
  resources: [pods]
  verbs: [get, list, watch]
{{- end }}

{{- /* Beside the scene agent on a node, or beside the renderer where its store is its own. */ -}}
{{- define "splatfleet.exporterContainer" -}}
- name: exporter
  image: {{ include "splatfleet.image" (list . "node") }}
  imagePullPolicy: {{ .Values.image.pullPolicy }}
  args:
    - exporter
    - --kubernetes
    - --namespace={{ include "splatfleet.scenesNamespace" . }}
    - --node=$(NODE_NAME)
    - --scene-cache=/var/lib/splatfleet/scenes
    {{- if eq .Values.sceneCache.type "ephemeral" }}
    - --beside=$(POD_UID)
    {{- end }}
    - --listen=0.0.0.0:9465
  env:
    - name: NODE_NAME
      valueFrom: {fieldRef: {fieldPath: spec.nodeName}}
    {{- if ne .Values.gpuPreset "cpu" }}
    # NVIDIA's container runtime brings NVML for that, and no way to compute.
    - {name: NVIDIA_VISIBLE_DEVICES, value: all}
    - {name: NVIDIA_DRIVER_CAPABILITIES, value: utility}
    {{- end }}
    {{- if eq .Values.sceneCache.type "ephemeral" }}
    - name: POD_UID
      valueFrom: {fieldRef: {fieldPath: metadata.uid}}
    {{- end }}
  ports:
    - {name: exporter, containerPort: 9465}
  {{- include "splatfleet.probes" "exporter" | nindent 2 }}
  {{- include "splatfleet.containerSecurity" . | nindent 2 }}
  resources: {{- toYaml .Values.node.exporter.resources | nindent 4 }}
  volumeMounts:
    - {name: scenes, mountPath: /var/lib/splatfleet/scenes, readOnly: true}
{{- end }}
