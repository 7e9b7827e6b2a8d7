// Command coredns is CoreDNS with only the plugins that the bed's clusters need,
// which keeps its build and its memory small.
package main

import (
	"github.com/coredns/coredns/core/dnsserver"
	"github.com/coredns/coredns/coremain"
	_ "github.com/coredns/coredns/plugin/bind"
	_ "github.com/coredns/coredns/plugin/cache"
	_ "github.com/coredns/coredns/plugin/errors"
	_ "github.com/coredns/coredns/plugin/kubernetes"
	_ "github.com/coredns/coredns/plugin/log"
	_ "github.com/coredns/coredns/plugin/template"
)

func main() {
	// Directives is the order in which plugins are chained: a plugin that is not
	// listed here is unknown to the Corefile, even if it is linked in.
	dnsserver.Directives = []string{"bind", "log", "errors", "cache", "kubernetes", "template"}
	coremain.Run()
}
