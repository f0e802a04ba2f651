// Where the parts of a lab are: names and paths, and nothing that touches them.
//
// A lab NAME has a run folder (sockets, logs, namespaces; small) and a state folder (containerd's data, certificates,
// copies of the programs). What a PU sees at /run is <run>/PU/run here, so its sockets can be used from outside; what
// it sees at /var/lib and /var/log is <state>/PU/var/….
//
// A lab of several Nodes is several labs: "demo.2" is the second Node of "demo", and its DPU is plugged into the
// outside of "demo". No user's name has a dot.
//
// Threading: values. Errors: CheckName says what is wrong with a name.
//
//   Layout layout{"demo"};
//   std::string socket = layout.PuRun(Place::kHost) + "/containerd/containerd.sock";
#pragma once

#include <array>
#include <string>

#include "common/status/status.h"

namespace heterok8s::lab {

inline constexpr const char* kRunRoot = "/run/heterok8s-lab";
inline constexpr const char* kStateRoot = "/var/lib/heterok8s-lab";
inline constexpr const char* kCgroupRoot = "heterok8s-lab";              // below the root of every cgroup hierarchy
inline constexpr const char* kInsideFolder = "/run/lab";                 // what the lab itself puts into a PU
inline constexpr const char* kInsideBin = "/run/lab/bin";                // programs of ours, and the CNI plugins
inline constexpr const char* kInsideKubernetes = "/run/lab/kubernetes";  // Kubernetes's
inline constexpr int kMaxNodes = 8;

// The three places of a lab. The first two are PUs: a whole environment with an init; the client is only a network
// namespace that stands for the outside.
enum class Place { kHost, kDpu, kClient };
inline constexpr std::array<Place, 2> kPus = {Place::kHost, Place::kDpu};
inline constexpr std::array<Place, 3> kPlaces = {Place::kHost, Place::kDpu, Place::kClient};

std::string Name(Place place);  // "host", "dpu", "client"
absl::StatusOr<Place> ParsePlace(const std::string& text);

// Lower-case letters, digits and '-', at most 20 characters: it becomes part of hostnames and socket paths. A further
// Node of a lab has ".2" to ".8" behind it.
absl::Status CheckName(const std::string& name);

struct Layout {
  std::string name;

  int Node() const;           // 1, or the number behind the dot
  std::string First() const;  // the name of the first Node
  Layout OfNode(int number) const;

  std::string Run() const { return std::string(kRunRoot) + "/" + name; }
  std::string State() const { return std::string(kStateRoot) + "/" + name; }
  std::string Lock() const { return std::string(kRunRoot) + "/." + name + ".lock"; }
  std::string Env() const { return Run() + "/env.json"; }
  std::string Logs() const { return Run() + "/log"; }
  std::string Log(Place place, const std::string& daemon) const {
    return Logs() + "/" + Name(place) + "-" + daemon + ".log";
  }
  std::string Netns(Place place) const { return Run() + "/netns/" + Name(place); }
  std::string Control(Place pu) const { return Run() + "/" + Name(pu) + "/control.sock"; }
  std::string PuRun(Place pu) const { return Run() + "/" + Name(pu) + "/run"; }
  std::string PuState(Place pu) const { return State() + "/" + Name(pu); }
  // Volumes and logs of Pods: at this path on the machine and in the host PU.
  std::string Pods() const { return State() + "/pods"; }
  std::string Pki() const { return State() + "/pki"; }
  // Of Kubernetes; the CA is the first Node's.
  std::string KubernetesPki() const { return Pki() + "/kubernetes"; }
  // For kubectl on this machine.
  std::string Kubeconfig() const { return Run() + "/kubeconfig"; }
  // The network namespace that `lab up` ran in, for what listens there.
  std::string MachineNetns() const { return Run() + "/netns/machine"; }
  std::string Bin() const { return State() + "/bin"; }
  std::string InitSpec(Place pu) const { return PuState(pu) + "/init.json"; }
  std::string Cgroup() const { return std::string(kCgroupRoot) + "/" + name; }
  std::string Cgroup(Place place) const { return Cgroup() + "/" + Name(place); }
  std::string Hostname(Place place) const { return name + "-" + Name(place); }
};

}  // namespace heterok8s::lab
