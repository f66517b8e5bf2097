{{- define "carrick.name" -}}
{{- .Values.nameOverride | default "carrick-operator" | trunc 40 | trimSuffix "-" -}}
{{- end -}}

{{- define "carrick.selector" -}}
app.kubernetes.io/name: {{ include "carrick.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "carrick.labels" -}}
{{ include "carrick.selector" . }}
app.kubernetes.io/component: operator
app.kubernetes.io/part-of: carrick
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end -}}

{{- /* Full reference of an image: (list . "carrick") or (list . "carrickOvs"). */ -}}
{{- define "carrick.image" -}}
{{- $root := index . 0 -}}
{{- $images := $root.Values.images -}}
{{- $image := index $images (index . 1) -}}
{{- with $images.registry }}{{ trimSuffix "/" . }}/{{ end -}}
{{- $images.prefix }}{{ $image.name -}}
{{- if $image.digest }}@{{ $image.digest }}{{ else }}:{{ $image.tag | default $root.Chart.AppVersion }}{{ end -}}
{{- end -}}

{{- /* The API server for kube's in-cluster client, when it is not the kubernetes Service. */ -}}
{{- define "carrick.apiServerEnv" -}}
{{- if .Values.apiServer.host -}}
- name: KUBERNETES_SERVICE_HOST
  value: {{ .Values.apiServer.host | quote }}
- name: KUBERNETES_SERVICE_PORT
  value: {{ .Values.apiServer.port | quote }}
{{- end }}
{{- end -}}

{{- /* What a cluster that is only coming up has on its nodes. */ -}}
{{- define "carrick.tolerations" -}}
- {key: node-role.kubernetes.io/control-plane, operator: Exists, effect: NoSchedule}
- {key: node.kubernetes.io/not-ready, operator: Exists}
- {key: node.kubernetes.io/network-unavailable, operator: Exists}
- {key: node.cloudprovider.kubernetes.io/uninitialized, operator: Exists, effect: NoSchedule}
- {key: {{ dig "startup" "taintKey" "carrick.dev/agent-not-ready" .Values.networking.spec }}, operator: Exists}
{{- with .Values.operator.tolerations }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- define "carrick.securityContext" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
seccompProfile:
  type: RuntimeDefault
{{- end -}}

{{- define "carrick.pullSecrets" -}}
{{- with .Values.images.pullSecrets -}}
imagePullSecrets:
{{- range . }}
- name: {{ . | quote }}
{{- end }}
{{- end }}
{{- end -}}
