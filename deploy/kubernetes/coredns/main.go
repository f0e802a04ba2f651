// CoreDNS for labs (../build): its own main, with the plugins that a cluster's Corefile names and no others. The whole set
// brings the clients of every cloud and takes three times as long to build.
package main

import (
	"github.com/coredns/coredns/core/dnsserver"
	"github.com/coredns/coredns/coremain"

	_ "github.com/coredns/coredns/plugin/cache"
	_ "github.com/coredns/coredns/plugin/errors"
	_ "github.com/coredns/coredns/plugin/forward"
	_ "github.com/coredns/coredns/plugin/health"
	_ "github.com/coredns/coredns/plugin/hosts"
	_ "github.com/coredns/coredns/plugin/kubernetes"
	_ "github.com/coredns/coredns/plugin/ready"
	_ "github.com/coredns/coredns/plugin/template"
)

// Queries pass the plugins in this order, whatever the Corefile's.
func init() {
	dnsserver.Directives = []string{"errors", "health", "ready", "cache", "template", "hosts", "kubernetes", "forward"}
}

func main() { coremain.Run() }
