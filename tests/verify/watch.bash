# Watching and running it: container, compose, Kubernetes. Sourced by script/verify.

built() { script/bootstrap --dev && cmake --preset release >/dev/null && cmake --build build/release; }
check "everything is built" built

# ---- Container, compose, Kubernetes ----
check "the image: built from the Dockerfile, run read-only as its user, its HEALTHCHECK and a classify call, under 1.2 GB" tests/deploy/image_test
check "compose.yaml: read as Docker Compose does, and what it names is there" tests/deploy/compose_test
check "every overlay is accepted by a Kubernetes API server: strictly, under Pod Security restricted, without a warning" \
  tests/deploy/kubernetes_test "${TASUKI_KUBERNETES_TOOLS:-../shared/tools/kubernetes-api}"
