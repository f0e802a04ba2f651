#include "node-agent/cri/subpath.h"

#include "common/testing/matchers.h"

namespace heterok8s::cri {
namespace {

// Of a kubelet's machine, shortened.
constexpr const char* kMounts =
    "24 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw\n"
    "300 24 0:50 / /var/lib/kubelet/pods/u1/volumes/kubernetes.io~secret/pass rw shared:90 - tmpfs tmpfs "
    "rw,size=1024k\n"
    "301 24 0:50 /..2026_11_21/key /var/lib/kubelet/pods/u1/volume-subpaths/pass/a/0 ro - tmpfs tmpfs rw\n"
    "302 24 8:1 /var/lib/kubelet/pods/u1/volumes/kubernetes.io~configmap/conf/..2026/a.cfg "
    "/var/lib/kubelet/pods/u1/volume-subpaths/conf/a/1 rw - ext4 /dev/sda1 rw\n"
    "303 24 8:1 /var/lib/kubelet/pods/u1/volumes/kubernetes.io~empty-dir/cache/sub "
    "/var/lib/kubelet/pods/u1/volume-subpaths/cache/a/2 rw - ext4 /dev/sda1 rw\n"
    "304 24 8:16 /data /var/lib/kubelet/pods/u1/volume-subpaths/pvc/a/3 rw - ext4 /dev/sdb rw\n"
    "305 24 8:1 /srv/with\\040space/volumes/kubernetes.io~projected/t/x /mnt/with\\040space rw - ext4 /dev/sda1 rw\n";

TEST_CASE("the kernel tells which volume a subPath is of, on a disk and in memory") {
  const std::string pod = "/var/lib/kubelet/pods/u1/volume-subpaths/";
  CHECK(SubPathKind(kMounts, pod + "conf/a/1") == "configmap");
  CHECK(SubPathKind(kMounts, pod + "pass/a/0") == "secret");
  CHECK(SubPathKind(kMounts, pod + "cache/a/2") == "empty-dir");
  CHECK(SubPathKind(kMounts, "/mnt/with space") == "projected");
}

TEST_CASE("what is not known is nothing") {
  CHECK(SubPathKind(kMounts, "/var/lib/kubelet/pods/u1/volume-subpaths/pvc/a/3") == std::nullopt);
  CHECK(SubPathKind(kMounts, "/not/mounted") == std::nullopt);
  CHECK(SubPathKind("", "/x") == std::nullopt);
  CHECK(SubPathKind("no mountinfo at all\n1 2 3\n", "at") == std::nullopt);
}

}  // namespace
}  // namespace heterok8s::cri
