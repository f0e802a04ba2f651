#include "node-agent/cri/stats.h"

#include "common/testing/matchers.h"

namespace heterok8s::cri {
namespace {

using testing::HasCode;

namespace rt = runtime::v1;

rt::ContainerStats Container(const std::string& id) {
  rt::ContainerStats stats;
  stats.mutable_attributes()->set_id(id);
  (*stats.mutable_attributes()->mutable_labels())["name"] = id;
  stats.mutable_writable_layer()->mutable_fs_id()->set_mountpoint("/var/lib/of/the/dpu");
  stats.mutable_writable_layer()->mutable_used_bytes()->set_value(7);
  return stats;
}

TEST_CASE("a DPU container's figures keep its bytes and lose the DPU's file system") {
  rt::ContainerStats stats = ForHost(Container("c1"));

  CHECK(stats.writable_layer().used_bytes().value() == 7);
  CHECK(!stats.writable_layer().has_fs_id());
  CHECK(!ForHost(rt::ContainerStats()).has_writable_layer());
}

TEST_CASE("what an emptyDir on the DPU holds is charged once, to a container of its Pod that mounts it") {
  rt::ListContainerStatsResponse on_dpu;
  auto add = [&](const char* id, const char* uid, const char* volumes) {
    rt::ContainerStats stats = Container(id);
    (*stats.mutable_attributes()->mutable_labels())["io.kubernetes.pod.uid"] = uid;
    if (volumes[0] != '\0') (*stats.mutable_attributes()->mutable_annotations())["heteropod.io/dpu-volumes"] = volumes;
    *on_dpu.add_stats() = stats;
  };
  add("c3", "pod-1", "cache,run");
  add("c2", "pod-1", "run");
  add("c1", "pod-1", "");
  add("c0", "pod-2", "run");
  v1::UsedByVolumesReply used;
  for (const char* name : {"cache", "run", "nobody's"}) {
    v1::UsedByVolumesReply::Volume* volume = used.add_volumes();
    volume->set_pod_uid("pod-1");
    volume->set_volume(name);
    volume->set_bytes(name[0] == 'c' ? 1000 : 20);
    volume->set_inodes(3);
  }

  ChargeVolumes(used, on_dpu.mutable_stats());

  auto bytes = [&](int at) { return on_dpu.stats(at).writable_layer().used_bytes().value(); };
  CHECK(bytes(0) == 7 + 1000);
  CHECK(bytes(1) == 7 + 20);
  CHECK(bytes(2) == 7);
  CHECK(bytes(3) == 7);
  CHECK(on_dpu.stats(1).writable_layer().inodes_used().value() == 3);
}

TEST_CASE("stats filters are those of CRI: parts of ids, and every label") {
  rt::ContainerStatsFilter filter;
  CHECK(Matches(Container("c1"), "s1", filter));
  filter.set_id("c");
  filter.set_pod_sandbox_id("s");
  (*filter.mutable_label_selector())["name"] = "c1";
  CHECK(Matches(Container("c1"), "s1", filter));

  CHECK(!Matches(Container("c1"), "t1", filter));
  CHECK(!Matches(Container("d1"), "s1", filter));
  (*filter.mutable_label_selector())["name"] = "other";
  CHECK(!Matches(Container("c1"), "s1", filter));
}

TEST_CASE("a Pod's figures have the containers of both, the host's processor and the twin's network") {
  rt::PodSandboxStats pod, twin;
  pod.mutable_attributes()->set_id("host");
  pod.mutable_linux()->mutable_cpu()->mutable_usage_core_nano_seconds()->set_value(1);
  pod.mutable_linux()->mutable_network()->mutable_default_interface()->set_name("eth0");
  *pod.mutable_linux()->add_containers() = Container("app");
  twin.mutable_linux()->mutable_cpu()->mutable_usage_core_nano_seconds()->set_value(2);
  twin.mutable_linux()->mutable_network()->mutable_default_interface()->mutable_rx_bytes()->set_value(9);
  *twin.mutable_linux()->add_containers() = Container("side");

  AddTwin(twin, &pod);

  CHECK(pod.attributes().id() == "host");
  CHECK(pod.linux().cpu().usage_core_nano_seconds().value() == 1);
  CHECK(pod.linux().network().default_interface().rx_bytes().value() == 9);
  REQUIRE(pod.linux().containers_size() == 2);
  CHECK(pod.linux().containers(1).attributes().id() == "side");
  CHECK(!pod.linux().containers(1).writable_layer().has_fs_id());
}

TEST_CASE("metrics of a twin's containers are the Pod's, and each descriptor is there once") {
  rt::PodSandboxMetrics pod, twin;
  pod.set_pod_sandbox_id("host");
  twin.add_container_metrics()->set_container_id("side");
  rt::ListMetricDescriptorsResponse host, dpu;
  for (const char* name : {"a", "b"}) host.add_descriptors()->set_name(name);
  for (const char* name : {"b", "c"}) dpu.add_descriptors()->set_name(name);

  AddTwin(twin, &pod);
  AddDescriptors(dpu, &host);

  CHECK(pod.pod_sandbox_id() == "host");
  CHECK(pod.container_metrics(0).container_id() == "side");
  REQUIRE(host.descriptors_size() == 3);
  CHECK(host.descriptors(2).name() == "c");
}

TEST_CASE("the cgroup driver is read from containerd's verbose status") {
  auto config = [](const std::string& options) {
    return R"({"containerd":{"defaultRuntimeName":"runc","runtimes":{"runc":{"options":)" + options + "}}}}";
  };
  CHECK(*CgroupDriverOf(config(R"({"SystemdCgroup":true})")) == rt::SYSTEMD);
  CHECK(*CgroupDriverOf(config(R"({"SystemdCgroup":false})")) == rt::CGROUPFS);
  CHECK(*CgroupDriverOf(config("{}")) == rt::CGROUPFS);
  CHECK(*CgroupDriverOf(config("null")) == rt::CGROUPFS);
  for (const char* bad : {"", "{}", "[]", R"({"containerd":{"defaultRuntimeName":"runc"}})", R"({"containerd":7})"}) {
    CHECK_THAT(CgroupDriverOf(bad).status(), HasCode(absl::StatusCode::kUnimplemented));
  }
}

}  // namespace
}  // namespace heterok8s::cri
