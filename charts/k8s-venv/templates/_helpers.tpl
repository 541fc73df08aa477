{{/* The beginning of every name. A CronJob's may have 52 characters; the longest suffix takes 13. */}}
{{- define "k8s-venv.fullname" -}}
{{- $name := default .Chart.Name .Values.nameOverride -}}
{{- $full := ternary .Release.Name (printf "%s-%s" .Release.Name $name) (contains $name .Release.Name) -}}
{{- default $full .Values.fullnameOverride | trunc 39 | trimSuffix "-" -}}
{{- end }}

{{/* What selects the objects of one component. Takes a list: the root and the component. */}}
{{- define "k8s-venv.selectorLabels" -}}
{{- $root := index . 0 -}}
app.kubernetes.io/name: {{ default $root.Chart.Name $root.Values.nameOverride }}
app.kubernetes.io/instance: {{ $root.Release.Name }}
app.kubernetes.io/component: {{ index . 1 }}
{{- end }}

{{/* The labels and annotations of an object. Takes a list: the root, the component, and annotations of its own. */}}
{{- define "k8s-venv.marks" -}}
{{- $own := dict -}}
{{- if gt (len .) 2 }}{{ $own = index . 2 }}{{ end -}}
labels:
  {{- include "k8s-venv.labels" . | nindent 2 }}
{{- with merge (deepCopy $own) (index . 0).Values.commonAnnotations }}
annotations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{/* The labels of an object. Takes a list: the root and the component. */}}
{{- define "k8s-venv.labels" -}}
{{- $root := index . 0 -}}
{{- include "k8s-venv.selectorLabels" . }}
app.kubernetes.io/version: {{ $root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ $root.Release.Service }}
app.kubernetes.io/part-of: k8s-venv
helm.sh/chart: {{ printf "%s-%s" $root.Chart.Name $root.Chart.Version | replace "+" "_" }}
{{- with $root.Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{/* The label of isolated tasks' pods, which k8s-venv gives them. */}}
{{- define "k8s-venv.taskLabels" -}}
app.kubernetes.io/managed-by: k8s-venv
{{- end }}

{{/* The annotations of a pod of `helm test`. */}}
{{- define "k8s-venv.testHook" -}}
helm.sh/hook: test
helm.sh/hook-delete-policy: before-hook-creation{{ if not .Values.tests.keepPods }},hook-succeeded{{ end }}
{{- end }}

{{/* Where a pod of the chart runs. Takes the table of values that says it. */}}
{{- define "k8s-venv.placement" -}}
{{- range $key := list "nodeSelector" "tolerations" "affinity" "priorityClassName" -}}
{{- with get $ $key }}
{{ dict $key . | toYaml }}
{{- end }}
{{- end }}
{{- end }}

{{/* What the operator does in the task namespace; each verb is needed, which the cluster tests prove. */}}
{{- define "k8s-venv.rules" -}}
- apiGroups: [""]
  resources: ["pods"]
  verbs: ["create", "get", "list", "watch", "patch", "delete"]
- apiGroups: [""]
  resources: ["pods/log"]
  verbs: ["get"]
{{- if .Values.rights.exec }}
# API servers before 1.35 ask for `get` where the client comes by WebSocket, newer ones for `create`.
- apiGroups: [""]
  resources: ["pods/exec"]
  verbs: ["get", "create"]
{{- end }}
- apiGroups: [""]
  resources: ["secrets"]
  verbs: ["create"]
- apiGroups: [""]
  resources: ["events"]
  verbs: ["list"]
{{- if include "k8s-venv.warmEnvironments" . }}
# The lock of a call, warm or cold, in environments with warm pods.
- apiGroups: ["coordination.k8s.io"]
  resources: ["leases"]
  verbs: ["create", "get", "delete"]
{{- end }}
{{- end }}

{{/* The names of the environments that declare warm pods, with a space before each; nothing if there are none. */}}
{{- define "k8s-venv.warmEnvironments" -}}
{{- range $name, $environment := .Values.environments }}{{ if $environment.warm }} {{ $name }}{{ end }}{{ end -}}
{{- end }}

{{/* Whether pods are kept waiting: text or nothing. */}}
{{- define "k8s-venv.keepsWarm" -}}
{{- if .Values.warm.enabled }}{{ include "k8s-venv.warmEnvironments" . }}{{ end -}}
{{- end }}

{{/* What a pool of warm pods is, for the keeper. Takes a list: the environment's name and its `warm`. */}}
{{- define "k8s-venv.pool" -}}
{{- merge (dict "environment" (index . 0)) (index . 1) | toJson -}}
{{- end }}

{{/* An environment's name in the names of objects. */}}
{{- define "k8s-venv.slug" -}}
{{- regexReplaceAll "_+" . "-" -}}
{{- end }}

{{/* The service account of an environment. Takes a list: the root, the environment's name and the environment. */}}
{{- define "k8s-venv.serviceAccountName" -}}
{{- $account := default dict (index . 2).serviceAccount -}}
{{- $made := printf "%s-%s" (include "k8s-venv.fullname" (index . 0)) (include "k8s-venv.slug" (index . 1)) -}}
{{- default (ternary $made "default" (dig "create" true $account)) $account.name -}}
{{- end }}

{{/* Pull secrets for pods with the image of any environment. */}}
{{- define "k8s-venv.allPullSecrets" -}}
{{- $secrets := .Values.imagePullSecrets -}}
{{- range .Values.environments }}{{ $secrets = concat $secrets (default list .imagePullSecrets) }}{{ end -}}
{{- toYaml (uniq $secrets) -}}
{{- end }}

{{/* An image with Python for the chart's own scripts. Takes a list: the root, the given image and the value's path. */}}
{{- define "k8s-venv.scriptImage" -}}
{{- $environments := (index . 0).Values.environments -}}
{{- if index . 1 -}}
{{- index . 1 -}}
{{- else if $environments -}}
{{- (get $environments (keys $environments | sortAlpha | first)).image -}}
{{- else -}}
{{- fail (printf "%s: name an image with Python, or declare environments (`k8s-venv helm-values` prints them)." (index . 2)) -}}
{{- end -}}
{{- end }}

{{/* The security contexts that the `restricted` Pod Security Standard asks for. */}}
{{- define "k8s-venv.podSecurityContext" -}}
runAsNonRoot: true
runAsUser: 50000
seccompProfile:
  type: RuntimeDefault
{{- end }}
{{- define "k8s-venv.securityContext" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: ["ALL"]
{{- end }}

{{/*
Whether a block of addresses contains the cloud's metadata address 169.254.169.254, or as IPv6 fd00:ec2::254: the text
`4`, `6` or nothing. An IPv4 block does when both addresses, as numbers, are the same after division by its size.
*/}}
{{- define "k8s-venv.coversMetadata" -}}
{{- if has . (list "::/0" "fc00::/7" "fd00::/8") -}}
6
{{- else if regexMatch "^[0-9.]+/[0-9]+$" . -}}
{{- $size := 1 -}}
{{- range until (sub 32 (splitList "/" . | last | int) | int) }}{{ $size = mul $size 2 }}{{ end -}}
{{- $block := 0 -}}
{{- range splitList "/" . | first | splitList "." }}{{ $block = add (mul $block 256) (int .) }}{{ end -}}
{{- if eq (div $block $size) (div 2852039166 $size) }}4{{ end -}}
{{- end -}}
{{- end }}

{{/* What is wrong with the values beyond their schema. */}}
{{- define "k8s-venv.validate" -}}
{{- range $label, $_ := .Values.commonLabels -}}
{{- if regexMatch "^(app[.]kubernetes[.]io|helm[.]sh)/" $label -}}
{{- fail (printf "commonLabels: %s is set by the chart. Leave it out." $label) -}}
{{- end -}}
{{- end -}}
{{- $slugs := dict -}}
{{- range $name, $environment := .Values.environments -}}
{{- $slug := include "k8s-venv.slug" $name -}}
{{- with $environment.warm -}}
{{- if gt (int .min) (int .max) -}}
{{- fail (printf "environments.%s.warm: min, %d, is above max, %d. Correct `warm` in k8s-venv.toml." $name (int .min) (int .max)) -}}
{{- end -}}
{{- if and $.Values.warm.enabled (not $.Values.rights.exec) -}}
{{- fail (printf "environments.%s.warm: a call reaches a warm pod through pods/exec, which rights.exec=false takes away. Grant it, or set warm.enabled=false." $name) -}}
{{- end -}}
{{- end -}}
{{- with get $slugs $slug -}}
{{- fail (printf "environments.%s: its objects would have the names of those of environments.%s. Rename one." $name .) -}}
{{- end -}}
{{- $_ := set $slugs $slug $name -}}
{{- end -}}
{{- if and .Values.airflow.checkServiceAccounts (lookup "v1" "Namespace" "" .Release.Namespace) -}}
{{- range $index, $account := .Values.airflow.serviceAccounts -}}
{{- if not (lookup "v1" "ServiceAccount" $account.namespace $account.name) -}}
{{- fail (printf "airflow.serviceAccounts[%d]: there is no service account %q in the namespace %q. Name those that Airflow's workers and triggerers run as, or set airflow.checkServiceAccounts=false to install before Airflow." $index $account.name $account.namespace) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- if .Values.networkPolicy.enabled -}}
{{- range $index, $rule := .Values.networkPolicy.egress -}}
{{- if and (not $rule.to) (not $.Values.networkPolicy.allowCloudMetadata) -}}
{{- fail (printf "networkPolicy.egress[%d]: without `to` it would open the cloud's metadata address as well. Name ipBlocks or selectors, or set networkPolicy.allowCloudMetadata=true." $index) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end }}
