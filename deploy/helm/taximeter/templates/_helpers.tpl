{{- define "taximeter.name" -}}
{{ printf "%s-%s" (.root.Release.Name | trunc 45 | trimSuffix "-") .process }}
{{- end }}

{{- define "taximeter.selector" -}}
app.kubernetes.io/name: taximeter
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .process }}
{{- end }}

{{- define "taximeter.labels" -}}
{{ include "taximeter.selector" . }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version }}
{{- end }}

{{- define "taximeter.image" -}}
{{- $image := .root.Values.image -}}
{{- if $image.digest -}}
{{ printf "%s@%s" $image.repository $image.digest }}
{{- else -}}
{{ printf "%s:%s" $image.repository (default .root.Chart.AppVersion $image.tag) }}
{{- end -}}
{{- end }}

{{/* Settings of a process: those that the chart needs, then everybody's, then its own. */}}
{{- define "taximeter.env" -}}
{{- $own := dict "CREDENTIALS_DIRECTORY" "/run/taximeter" -}}
{{- if ne .process "migrate" -}}
{{- with .root.Values.tracing -}}
{{- if .endpoint -}}
{{- $own = merge $own (dict "TAXIMETER_TRACING" "true" "OTEL_EXPORTER_OTLP_ENDPOINT" .endpoint "TAXIMETER_TRACING_COSTS" (toString .costs)) -}}
{{- end -}}
{{- end -}}
{{- $own = merge (dict) (get .root.Values .process).settings .root.Values.settings .needed $own -}}
{{- end -}}
{{- range $name, $value := $own }}
- name: {{ $name }}
  value: {{ $value | quote }}
{{- end }}
{{- end }}

{{/* Everything of a pod but its container's command, ports and probes. */}}
{{- define "taximeter.pod" -}}
{{- if ne .process "migrate" }}
serviceAccountName: {{ .root.Release.Name }}-taximeter
{{- end }}
automountServiceAccountToken: false
enableServiceLinks: false
{{- with .root.Values.image.pullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
securityContext:
  runAsNonRoot: true
  runAsUser: 65534
  runAsGroup: 65534
  fsGroup: 65534
  fsGroupChangePolicy: OnRootMismatch
  seccompProfile: {type: RuntimeDefault}
{{- with .root.Values.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .root.Values.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .root.Values.affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- if and .root.Values.topologySpread.enabled (ne .process "migrate") }}
topologySpreadConstraints:
  - maxSkew: 1
    topologyKey: {{ .root.Values.topologySpread.topologyKey }}
    whenUnsatisfiable: ScheduleAnyway
    labelSelector:
      matchLabels:
        {{- include "taximeter.selector" . | nindent 8 }}
{{- end }}
{{- end }}

{{- define "taximeter.container" -}}
image: {{ include "taximeter.image" . }}
imagePullPolicy: {{ .root.Values.image.pullPolicy }}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities: {drop: [ALL]}
env:
  {{- include "taximeter.env" . | nindent 2 }}
volumeMounts:
  - {name: secrets, mountPath: /run/taximeter, readOnly: true}
  - {name: tmp, mountPath: /tmp}
  {{- if .data }}
  - {name: data, mountPath: /var/lib/taximeter}
  {{- end }}
{{- end }}

{{- define "taximeter.volumes" -}}
- name: secrets
  secret: {secretName: {{ .secret }}, defaultMode: 0440}
- name: tmp
  emptyDir: {}
{{- end }}

{{/* The process is started anew when it stands still, and gets requests while it is ready. */}}
{{- define "taximeter.probes" -}}
startupProbe:
  httpGet: {path: /livez, port: {{ .port }}}
  periodSeconds: 2
  failureThreshold: 60
livenessProbe:
  httpGet: {path: /livez, port: {{ .port }}}
  periodSeconds: 10
  timeoutSeconds: 5
  failureThreshold: 6
readinessProbe:
  httpGet: {path: /readyz, port: {{ .port }}}
  periodSeconds: 3
  timeoutSeconds: 5
  failureThreshold: 2
{{- end }}

{{- define "taximeter.claims" -}}
{{- $kept := .kept -}}
volumeClaimTemplates:
  - metadata: {name: data}
    spec:
      accessModes: [ReadWriteOnce]
      {{- with $kept.storageClass }}
      storageClassName: {{ . }}
      {{- end }}
      resources:
        requests: {storage: {{ $kept.size }}}
# What waits there is money: it goes with nothing but a person's word.
persistentVolumeClaimRetentionPolicy: {whenDeleted: Retain, whenScaled: Retain}
{{- end }}

{{- define "taximeter.checked" -}}
{{- if not .Values.image.repository -}}
{{- fail "image.repository: build the image from the Dockerfile, push it, and name it here" -}}
{{- end -}}
{{- if and .Values.migrate.enabled (not .Values.secrets.owner) -}}
{{- fail "secrets.owner: name a Secret with taximeter_migrate_database_url, or set migrate.enabled to false" -}}
{{- end -}}
{{- range $process := list "api" "settler" "sidecar" -}}
{{- if and (or (ne $process "sidecar") $.Values.sidecar.enabled) (not (get $.Values.secrets $process)) -}}
{{- fail (printf "secrets.%s: name a Secret with taximeter_database_url and taximeter_redis_url" $process) -}}
{{- end -}}
{{- end -}}
{{- range $part := list .Values .Values.api .Values.sidecar .Values.settler -}}
{{- range $name, $value := $part.settings -}}
{{- if not (regexMatch "^(TAXIMETER|OTEL)_[A-Z0-9_]+$" $name) -}}
{{- fail (printf "settings: %s is no setting; docs/settings.md has them all" $name) -}}
{{- end -}}
{{- if regexMatch "^OTEL_.*HEADERS$" $name -}}
{{- fail (printf "settings: %s would hold a key: let a collector in the cluster add it" $name) -}}
{{- end -}}
{{- if regexMatch "(_URL|_KEY|_SECRET|_PASSWORD|_KEYS)$" $name -}}
{{- if regexMatch "://[^/@]*:[^/@]*@" (toString $value) -}}
{{- fail (printf "settings: %s has a password in it: put it into the Secret of its process" $name) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end }}
