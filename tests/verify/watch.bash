# Watching and running it: metrics, dashboards, alerts, container, Kubernetes, bundle. Sourced by script/verify.

bundle() { tests/deploy/bundle_test; }

check "the bundle unpacks and runs on a bare Debian 12" bundle
