# To be sourced: programs of other projects, made for labs from Go modules. Wants $out, the folder that they go to.

# compile STAMP FLAGS ARGUMENTS…: go build in this folder, unless the last one there was of the same sources and flags.
#   -p 2: each of Kubernetes's linkers takes 1.9 GB.
compile() {
  local name=$1 flags=$2 stamp; shift 2
  stamp=$({ sha256sum go.mod go.sum *.go; echo "$flags $*"; } | sha256sum | cut -c1-64)
  [ "$(cat "$out/$name" 2>/dev/null)" != "$stamp" ] || return 0
  rm -f "$out/$name"
  echo "building $(awk '$1 == "require" && $2 != "(" { print $2, $3; exit }' go.mod); this takes minutes and is done once" >&2
  CGO_ENABLED=0 go build -p 2 -mod=readonly -trimpath -ldflags "$flags" -o "$out/" "$@"
  echo "$stamp" >"$out/$name"
}
