//go:build tools

// Package idp names the identity provider that the tests build.
package idp

import _ "github.com/dexidp/dex/cmd/dex"
