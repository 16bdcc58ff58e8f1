// Command levee-issuer runs one issuer from its configuration file.
package main

import (
	"os"

	"levee/internal/daemon"
	"levee/services/issuer"
)

func main() { os.Exit(daemon.Main("levee-issuer", os.Args[1:], os.Stderr, issuer.Open)) }
