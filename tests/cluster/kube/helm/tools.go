//go:build tools

// Package helm names the program that ../build builds; nothing imports it.
package helm

import _ "helm.sh/helm/v3/cmd/helm"
