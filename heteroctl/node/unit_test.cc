#include "heteroctl/node/unit.h"

#include "common/testing/matchers.h"
#include "heteroctl/node/scripted_machine.h"

namespace heterok8s::ctl {
namespace {

using testing::HasCode;

TEST_CASE("the command of a unit is that of its last file, continued lines and all") {
  CHECK(*ExecStartOf(kKubeadm, "") == "/usr/bin/kubelet $KUBELET_CONFIG_ARGS $KUBELET_EXTRA_ARGS");
  CHECK(*ExecStartOf("[Service]\nExecStartPre=/bin/a\nExecStart = /bin/b -x\n", "") == "/bin/b -x");
  CHECK(*ExecStartOf("# /a\n[Service]\nExecStart=/b\n# /c\n[Service]\nExecStart=\nExecStart=/d\n", "/c") == "/b");
  CHECK_THAT(ExecStartOf("[Install]\nExecStart=/b\n", "").status(), HasCode(absl::StatusCode::kNotFound));
  CHECK_THAT(ExecStartOf("[Service]\nExecStart=/b\nExecStart=/c\n", "").status(),
             HasCode(absl::StatusCode::kFailedPrecondition));
}

}  // namespace
}  // namespace heterok8s::ctl
