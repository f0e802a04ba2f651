// containerd 2, for labs (build).
module heterok8s/deploy/containerd

go 1.26.2

require github.com/containerd/containerd/v2 v2.2.9
