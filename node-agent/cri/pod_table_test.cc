// What a List shows, over the loss and return of the DPU and over a restart.
#include "node-agent/cri/pod_table.h"

#include <unistd.h>

#include "common/testing/matchers.h"
#include "node-agent/cri/annotations.h"

namespace heterok8s::cri {
namespace {

namespace rt = runtime::v1;

std::string TempFile() { return "/tmp/hk-pod-table-" + std::to_string(getpid()) + ".state"; }

DpuContainer Running(const std::string& id, const std::string& name = "side") {
  DpuContainer container;
  container.listed.set_id(id);
  container.listed.set_pod_sandbox_id("sandbox-1");
  container.listed.mutable_metadata()->set_name(name);
  container.listed.set_state(rt::CONTAINER_RUNNING);
  (*container.listed.mutable_labels())["app"] = name;
  container.status.set_id(id);
  container.status.set_state(rt::CONTAINER_RUNNING);
  return container;
}

int Listed(const PodTable& table, const rt::ContainerFilter& filter) {
  rt::ListContainersResponse response;
  REQUIRE(response.ParseFromString(table.ListBytes(filter)));
  return response.containers_size();
}

TEST_CASE("the DPU's part of a List, appended to the host's bytes, is one List") {
  PodTable table(TempFile());
  table.PutContainer(Running("dpu-1"));
  rt::ListContainersResponse host;
  host.add_containers()->set_id("host-1");
  rt::ListContainersResponse both;
  REQUIRE(both.ParseFromString(host.SerializeAsString() + table.ListBytes({})));
  REQUIRE(both.containers_size() == 2);
  CHECK(both.containers(1).id() == "dpu-1");
}

TEST_CASE("a List without a filter shows every change at once") {
  PodTable table(TempFile());
  auto listed = [&table] {
    rt::ListContainersResponse response;
    REQUIRE(response.ParseFromString(table.ListBytes({})));
    std::string text;
    for (const rt::Container& container : response.containers()) {
      text += container.id() + (container.state() == rt::CONTAINER_RUNNING ? "+" : "-");
    }
    return text;
  };
  CHECK(listed().empty());
  SplitPod pod;
  pod.sandbox_id = "sandbox-1";
  table.PutPod(pod);
  table.PutContainer(Running("a"));
  CHECK(listed() == "a+");
  table.PutContainer(Running("b"));
  CHECK(listed() == "a+b+");
  table.EraseContainer("a");
  CHECK(listed() == "b+");
  CHECK(table.Replace(table.version(), {Running("b"), Running("c"), Running("d")}));
  CHECK(listed() == "b+c+d+");
  table.AddRemoved("c");
  CHECK(listed() == "b+d+");
  PodTable again(TempFile());
  CHECK(again.ListBytes({}).empty());
  REQUIRE_OK(again.FromBytes(table.ToBytes()));
  CHECK(again.ListBytes({}) == table.ListBytes({}));
  table.LoseAll(1);
  CHECK(listed() == "b-d-");
  table.ErasePod("sandbox-1");
  CHECK(listed().empty());
}

TEST_CASE("List honours every filter that CRI has") {
  PodTable table(TempFile());
  table.PutContainer(Running("aaa", "x"));
  table.PutContainer(Running("bbb", "y"));
  rt::ContainerFilter filter;
  CHECK(Listed(table, filter) == 2);
  filter.set_id("aa");
  CHECK(Listed(table, filter) == 1);
  filter.clear_id();
  filter.mutable_state()->set_state(rt::CONTAINER_EXITED);
  CHECK(Listed(table, filter) == 0);
  filter.clear_state();
  filter.set_pod_sandbox_id("sandbox-2");
  CHECK(Listed(table, filter) == 0);
  filter.clear_pod_sandbox_id();
  (*filter.mutable_label_selector())["app"] = "y";
  CHECK(Listed(table, filter) == 1);
  (*filter.mutable_label_selector())["other"] = "";
  CHECK(Listed(table, filter) == 0);
}

TEST_CASE("an id is found whole or by a prefix as tools print it, never by a guess") {
  PodTable table(TempFile());
  table.PutContainer(Running("0123456789abcdef"));
  table.PutContainer(Running("0123456789abffff"));
  CHECK(table.FindContainer("0123456789abcdef"));
  CHECK(table.FindContainer("0123456789abc"));
  CHECK(!table.FindContainer("0123456789ab"));  // two have it
  CHECK(!table.FindContainer("01234"));
  CHECK(!table.FindContainer(""));
}

TEST_CASE("what was read before a change does not undo the change") {
  PodTable table(TempFile());
  table.PutContainer(Running("a"));
  uint64_t version = table.version();
  table.EraseContainer("a");
  CHECK(!table.Replace(version, {Running("a")}));
  CHECK(!table.FindContainer("a"));
  CHECK(table.Replace(table.version(), {Running("b")}));
  CHECK(table.FindContainer("b"));
  CHECK(table.Replace(table.version(), {}));
  CHECK(!table.FindContainer("b"));  // gone on the DPU
}

TEST_CASE("a lost container has ended for good, over the DPU's return and over a restart") {
  PodTable table(TempFile());
  DpuContainer ended = Running("ended");
  ended.listed.set_state(rt::CONTAINER_EXITED);
  ended.status.set_state(rt::CONTAINER_EXITED);
  ended.status.set_reason("Completed");
  table.PutContainer(Running("ran"));
  table.PutContainer(Running("removed"));
  table.PutContainer(ended);

  table.LoseAll(12345);
  CHECK(table.epoch() == 1);
  CHECK(table.FindContainer("ran")->status.reason() == "DPULost");
  CHECK(table.FindContainer("ran")->status.finished_at() == 12345);
  CHECK(table.FindContainer("ended")->status.reason() == "Completed");
  table.AddRemoved("removed");
  REQUIRE_OK(table.Save());

  PodTable again(TempFile());
  REQUIRE_OK(again.Load());
  SplitPod pod;
  pod.sandbox_id = "sandbox-1";
  again.PutPod(pod);
  CHECK(again.epoch() == 1);
  CHECK(again.Removed() == std::set<std::string>{"removed"});
  // The DPU returns and says that all three still run.
  CHECK(again.Replace(again.version(), {Running("ran"), Running("removed"), Running("ended")}));
  CHECK(again.FindContainer("ran")->status.reason() == "DPULost");
  CHECK(again.FindContainer("ran")->listed.state() == rt::CONTAINER_EXITED);
  CHECK(!again.FindContainer("removed"));
  // Fenced and removed there.
  CHECK(again.Replace(again.version(), {}));
  CHECK(again.FindContainer("ran")->status.reason() == "DPULost");
  again.EraseContainer("ran");
  CHECK(!again.FindContainer("ran"));
  unlink(TempFile().c_str());
}

TEST_CASE("kubelet is shown the host's file of a termination message, and no file of anybody else") {
  struct Row {
    std::string said, shown;
  };
  const Row row =
      GENERATE(Row{"/dev/end=/kubelet/pods/uid-1/containers/side/ab", "/kubelet/pods/uid-1/containers/side/ab"},
               Row{"/dev/end=/kubelet/pods/uid-2/containers/side/ab", "/dpu/ab"},
               Row{"/dev/end=/kubelet/pods/uid-1/containers/../../../../../etc/shadow", "/dpu/ab"},
               Row{"/dev/end=/etc/shadow", "/dpu/ab"}, Row{"/dev/end", "/dpu/ab"}, Row{"", "/dpu/ab"});
  PodTable table(TempFile());
  SplitPod pod;
  pod.sandbox_id = "sandbox-1";
  pod.metadata.set_uid("uid-1");
  table.PutPod(pod);
  DpuContainer container = Running("ran");
  (*container.listed.mutable_annotations())[kTerminationLog] = row.said;
  for (const char* each : {"/dev/end", "/conf"}) {
    rt::Mount& mount = *container.status.add_mounts();
    mount.set_container_path(each);
    mount.set_host_path("/dpu/ab");
  }
  table.PutContainer(container);

  CHECK(table.Shown(container).mounts(0).host_path() == row.shown);
  CHECK(table.Shown(container).mounts(1).host_path() == "/dpu/ab");
  REQUIRE(table.Statuses("sandbox-1").size() == 1);
  CHECK(table.Statuses("sandbox-1")[0].mounts(0).host_path() == row.shown);
  CHECK(table.FindContainer("ran")->status.mounts(0).host_path() == "/dpu/ab");
}

TEST_CASE("the epoch that a loss begins is in the file before any container is shown as lost") {
  PodTable table(TempFile());
  table.RaiseEpoch(7);
  table.PutContainer(Running("ran"));

  REQUIRE_OK(table.SaveNextEpoch());
  CHECK(table.epoch() == 7);
  CHECK(table.FindContainer("ran")->running());
  REQUIRE_OK(table.Save());  // another's, meanwhile
  {
    PodTable again(TempFile());
    REQUIRE_OK(again.Load());
    CHECK(again.epoch() == 8);
  }

  table.LoseAll(12345);
  CHECK(table.epoch() == 8);
  unlink(TempFile().c_str());
}

TEST_CASE("what was read before a loss or a removal changes nothing after it") {
  PodTable table(TempFile());
  DpuContainer ended = Running("late");
  ended.listed.set_state(rt::CONTAINER_EXITED);
  CHECK(table.PutContainer(Running("lost")));
  CHECK(table.PutContainer(Running("removed")));
  table.LoseAll(12345);
  table.AddRemoved("removed");
  const uint64_t version = table.version();

  CHECK(!table.PutContainer(Running("lost")));
  CHECK(!table.PutContainer(Running("removed")));
  CHECK(!table.PutContainer(Running("late")));  // of the epoch before

  CHECK(table.FindContainer("lost")->lost);
  CHECK(!table.FindContainer("removed"));
  CHECK(!table.FindContainer("late"));
  CHECK(table.version() == version);
  CHECK(table.PutContainer(ended));
}

TEST_CASE("a lost container of a Pod that went while heterocri was away is not shown for ever") {
  PodTable table(TempFile());
  table.PutContainer(Running("ran"));
  table.LoseAll(12345);

  CHECK(table.Replace(table.version(), {}));

  CHECK(!table.AnyContainer());
}

TEST_CASE("a state file that is no state file is said to be one") {
  PodTable table("/proc/self/cmdline");
  CHECK(!table.Load().ok());
  PodTable missing(TempFile() + ".none");
  CHECK_THAT(missing.Load(), testing::HasCode(absl::StatusCode::kNotFound));
}

TEST_CASE("the twin of a Pod and its resources are known again from the file") {
  SplitPod pod;
  pod.sandbox_id = "sandbox-1";
  pod.twin_id = "twin-1";
  pod.resources.emplace().set_memory_limit_in_bytes(64);
  pod.verdict.split = true;
  {
    PodTable table(TempFile());
    table.PutPod(pod);
    REQUIRE_OK(table.Save());
  }
  PodTable table(TempFile());
  REQUIRE_OK(table.Load());
  pod.twin_id.clear();
  pod.resources.reset();
  table.PutPod(pod);
  CHECK(table.FindPod("sandbox-1")->resources->memory_limit_in_bytes() == 64);
  CHECK(table.FindPodOfTwin("twin-1")->sandbox_id == "sandbox-1");
  unlink(TempFile().c_str());
}

}  // namespace
}  // namespace heterok8s::cri
