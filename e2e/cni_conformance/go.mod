// libcni's own command line, at a fixed version: how the conformance suite and bench/cni drive plugins as a runtime does.
module heterok8s/e2e/cni_conformance

go 1.24

tool github.com/containernetworking/cni/cnitool

require github.com/containernetworking/cni v1.3.0 // indirect
