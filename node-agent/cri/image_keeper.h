// Garbage collection of the DPU's images: kubelet sees the host's only, so nobody else would remove these.
//
// Purpose: a round every minute notes which images containers use. When the file system that holds images is fuller
// than `high_percent`, images that none uses go, the longest unused first, until it is at `low_percent`: kubelet's own
// rule. Threading: a thread of its own after Start; Round may be called instead by a test. Ownership: owns its channel.
// Errors: logged, once per reason; a round that fails changes nothing.
// The times of last use are in a file, so that a restart does not make all images young.
//
//   ImageKeeper keeper({.socket = "/run/containerd/containerd.sock", .state_file = "/var/lib/heterok8s/images"});
//   keeper.Start();
#pragma once

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <map>
#include <mutex>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "common/rpc/channel_keeper.h"
#include "common/status/status.h"
#include "node-agent/cri/cri_client.h"
#include "proto/cri/v1/cri.pb.h"

namespace heterok8s::cri {

struct ImageKeeperOptions {
  std::string socket;  // of the DPU's runtime
  std::string state_file;
  int high_percent = 85;  // of the file system's bytes; 100: nothing is ever removed
  int low_percent = 80;
  std::chrono::seconds youngest{120};  // unused for less: it may be about to be used
  std::chrono::seconds interval{60};
};

struct DiskUse {
  uint64_t total = 0, used = 0;  // bytes
};

class ImageKeeper {
 public:
  explicit ImageKeeper(ImageKeeperOptions options);
  ~ImageKeeper() { Stop(); }
  void Start();
  void Stop();

  // One look, and what follows from it; `disk` is asked for the file system at a path. Returns what was removed, by id.
  using Disk = std::function<absl::StatusOr<DiskUse>(const std::string& mountpoint)>;
  absl::StatusOr<std::vector<std::string>> Round(std::chrono::system_clock::time_point now, const Disk& disk);

  static absl::StatusOr<DiskUse> StatDisk(const std::string& mountpoint);

 private:
  absl::Status NoteUse(const runtime::v1::ListImagesResponse& images, int64_t now);
  void Load();
  absl::Status Save() const;

  const ImageKeeperOptions options_;
  std::shared_ptr<grpc::Channel> channel_;
  rpc::ChannelKeeper channel_keeper_;
  CriClient runtime_;
  std::map<std::string, int64_t> last_used_;  // by image id, seconds since 1970
  std::set<std::string> in_use_;              // in the latest round
  std::mutex mutex_;
  std::condition_variable changed_;
  bool stop_ = false;
  std::thread thread_;
};

}  // namespace heterok8s::cri
