# Sourced by scripts: finds the Go toolchain that tools/setup may have installed, and names the folders they share.
HK_ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
HK_BUILD=$HK_ROOT/.build
HK_BIN=$HK_ROOT/bazel-bin
if [ -x "$HK_BUILD/go/bin/go" ]; then PATH=$HK_BUILD/go/bin:$PATH; fi
export HK_ROOT HK_BUILD HK_BIN PATH
