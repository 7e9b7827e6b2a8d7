package main

import (
	"strings"
)

// application is a Deployment with a claim, and a pod that nothing makes again. GET /cgi-bin/put?ID answers "ok ID"
// once the line ID is in a file of the volume; /cgi-bin/all answers all
// lines, /cgi-bin/sum the checksum of what never changes. What was written
// outlives the pod without a sync: no fault here takes a machine's memory.
const application = `
apiVersion: v1
kind: Namespace
metadata: {name: NS, labels: {team: chaos}}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: scripts, namespace: NS}
data:
  put: |
    #!/bin/sh
    printf 'Content-Type: text/plain\r\n\r\n'
    echo "$QUERY_STRING" >> /data/writes && echo "ok $QUERY_STRING"
  all: |
    #!/bin/sh
    printf 'Content-Type: text/plain\r\n\r\n'
    cat /data/writes && echo end
  sum: |
    #!/bin/sh
    printf 'Content-Type: text/plain\r\n\r\n'
    cat /data/fixed/* | sha256sum
---
apiVersion: v1
kind: Secret
metadata: {name: password, namespace: NS}
stringData: {password: do-not-tell-anyone}
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: data, namespace: NS}
spec: {accessModes: [ReadWriteOnce], storageClassName: CLASS, resources: {requests: {storage: 64Mi}}}
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: NS}
spec: {selector: {app: web}, ports: [{port: 80, targetPort: 8080}]}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, namespace: NS}
spec:
  replicas: 1
  strategy: {type: Recreate}
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
      - name: web
        image: IMAGE
        command:
        - /bin/sh
        - -ec
        - |
          test -e /data/fixed/ready || { mkdir -p /data/fixed; i=0; while [ $i -lt 20 ]; do dd if=/dev/urandom of=/data/fixed/$i bs=64k count=2 2>/dev/null; i=$((i+1)); done; touch /data/writes /data/fixed/ready; }
          exec httpd -f -p 8080 -h /www
        readinessProbe: {tcpSocket: {port: 8080}, periodSeconds: 1}
        volumeMounts: [{name: data, mountPath: /data}, {name: scripts, mountPath: /www/cgi-bin}]
      volumes:
      - {name: data, persistentVolumeClaim: {claimName: data}}
      - {name: scripts, configMap: {name: scripts, defaultMode: 493}}
---
apiVersion: v1
kind: Pod
metadata: {name: beside, namespace: NS, labels: {app: beside}}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - {name: beside, image: IMAGE, command: [/bin/sh, -c, exec sleep 1000000]}
`

// secretValue is in the application's Secret and must not be found anywhere.
const secretValue = "do-not-tell-anyone"

func app(namespace, image, class string) string {
	return strings.NewReplacer("NS", namespace, "IMAGE", image, "CLASS", class).Replace(application)
}
