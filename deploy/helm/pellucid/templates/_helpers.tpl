{{- define "pellucid.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" }}
{{- end }}

{{- define "pellucid.fullname" -}}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride | trunc 50 | trimSuffix "-" }}
{{- else if contains (include "pellucid.name" .) .Release.Name }}
{{- .Release.Name | trunc 50 | trimSuffix "-" }}
{{- else }}
{{- printf "%s-%s" .Release.Name (include "pellucid.name" .) | trunc 50 | trimSuffix "-" }}
{{- end }}
{{- end }}

{{- define "pellucid.selector" -}}
app.kubernetes.io/name: {{ include "pellucid.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "pellucid.labels" -}}
{{ include "pellucid.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end }}

{{- define "pellucid.serviceAccount" -}}
{{- default (ternary (include "pellucid.fullname" .) "default" .Values.serviceAccount.create) .Values.serviceAccount.name }}
{{- end }}

{{- define "pellucid.image" -}}
{{- $tag := default (printf "%s%s" .Chart.AppVersion (ternary "-cuda" "" (gt (int .Values.gpu.count) 0))) .Values.image.tag -}}
{{- if .Values.image.digest -}}
{{ .Values.image.repository }}@{{ .Values.image.digest }}
{{- else -}}
{{ .Values.image.repository }}:{{ $tag }}
{{- end }}
{{- end }}

{{/* The devices of a pod with GPUs: one for each, unless settings.pool.devices names them. */}}
{{- define "pellucid.devices" -}}
{{- $gpus := int .Values.gpu.count }}
{{- $devices := dig "pool" "devices" (list) .Values.settings }}
{{- $cuda := 0 }}
{{- range $devices }}
{{- if hasPrefix "cuda" . }}{{ $cuda = add1 $cuda }}{{ end }}
{{- end }}
{{- if and $devices (ne (int $cuda) $gpus) }}
{{- fail (printf "settings.pool.devices has %d CUDA devices, but gpu.count is %d: make them equal, one worker for each GPU" (int $cuda) $gpus) }}
{{- end }}
{{- if not $devices }}
{{- range $number := until $gpus }}
{{- $devices = append $devices (printf "cuda:%d" $number) }}
{{- end }}
{{- end }}
{{- join "," $devices }}
{{- end }}

{{/* Fails where the autoscaler's values contradict one another or the settings. */}}
{{- define "pellucid.checkAutoscaling" -}}
{{- if and .Values.autoscaling.kind .Values.jobData.enabled }}
{{- fail "autoscaling.kind is set and jobData.enabled too: the folder of jobs is one pod's; install the chart once with jobs and once with autoscaling" }}
{{- end }}
{{- with .Values.autoscaling }}
{{- if gt (int .minReplicas) (int .maxReplicas) }}
{{- fail (printf "autoscaling.minReplicas is %d, above autoscaling.maxReplicas, which is %d" (int .minReplicas) (int .maxReplicas)) }}
{{- end }}
{{- $classes := concat (list "predictions" "interactive" "bulk") (keys (dig "classes" dict $.Values.settings)) }}
{{- range $class, $_ := .backlogSeconds }}
{{- if not (has $class $classes) }}
{{- fail (printf "autoscaling.backlogSeconds has %q, which is no class; classes: %s" $class (join ", " (uniq $classes))) }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}

{{/* A table of settings as TOML. Takes `path`, the dotted name of the table or "", and `table`. */}}
{{- define "pellucid.toml" -}}
{{- $path := .path }}
{{- range $key, $value := .table }}
{{- if not (kindIs "map" $value) }}
{{ $key }} = {{ $value | mustToRawJson }}
{{- end }}
{{- end }}
{{- range $key, $value := .table }}
{{- if kindIs "map" $value }}
{{- $name := trimPrefix "." (printf "%s.%s" $path $key) }}

[{{ $name }}]
{{- include "pellucid.toml" (dict "path" $name "table" $value) }}
{{- end }}
{{- end }}
{{- end }}

{{/* pellucid.toml. */}}
{{- define "pellucid.settingsFile" -}}
{{- include "pellucid.toml" (dict "path" "" "table" .Values.settings) | trim }}
{{- end }}

{{/* How long a pod may take to end: the preStop hook, the grace of running requests, the workers' exit, and 2 s. */}}
{{- define "pellucid.terminationSeconds" -}}
{{- $grace := dig "server" "grace_seconds" 20 .Values.settings }}
{{- $exit := dig "pool" "exit_seconds" 5 .Values.settings }}
{{- addf .Values.preStopSeconds $grace $exit 2 | ceil | int }}
{{- end }}

{{/* Failures of the startup probe, one every 5 s, that leave a fifth more than pool.start_seconds. */}}
{{- define "pellucid.startupFailures" -}}
{{- divf (mulf (dig "pool" "start_seconds" 300 .Values.settings) 1.2) 5 | ceil | int }}
{{- end }}
