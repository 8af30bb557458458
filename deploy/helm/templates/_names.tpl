{{- /* Names and labels that the other templates share. */ -}}
{{- define "agenttier.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" -}}
{{- end -}}

{{- define "agenttier.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 50 | trimSuffix "-" -}}
{{- else -}}
{{- $name := include "agenttier.name" . -}}
{{- if contains $name .Release.Name -}}
{{- .Release.Name | trunc 50 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 50 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "agenttier.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
app.kubernetes.io/name: {{ include "agenttier.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end -}}

{{- /* With "component": what Services and Deployments select by. */ -}}
{{- define "agenttier.selector" -}}
app.kubernetes.io/name: {{ include "agenttier.name" .root }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end -}}

{{- /* A platform image: {root, image}. */ -}}
{{- define "agenttier.image" -}}
{{- $name := .image.repository -}}
{{- if not (contains "/" $name) -}}{{- $name = printf "%s/%s" .root.Values.global.registry $name -}}{{- end -}}
{{- printf "%s:%s" $name (default (printf "v%s" .root.Chart.AppVersion) .image.tag) -}}
{{- end -}}

{{- /* A sandbox image: {root, image}. */ -}}
{{- define "agenttier.sandboxImage" -}}
{{- if contains ":" .image -}}{{- .image -}}
{{- else if contains "/" .image -}}{{- printf "%s:%s" .image .root.Values.defaults.imageTag -}}
{{- else -}}{{- printf "%s/%s:%s" .root.Values.global.registry .image .root.Values.defaults.imageTag -}}
{{- end -}}
{{- end -}}

{{- define "agenttier.podSecurity" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
fsGroup: 65532
seccompProfile: {type: RuntimeDefault}
{{- end -}}

{{- define "agenttier.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end -}}
