#include "node-agent/cri/lab/lab_heterod.h"

#include <grpcpp/server_builder.h>
#include <unistd.h>

#include "common/testing/matchers.h"

namespace heterok8s::cri {

LabHeterod::LabHeterod(std::string socket, std::chrono::milliseconds lease)
    : socket_(std::move(socket)), duration_(lease) {
  Start();
}

LabHeterod::~LabHeterod() { Stop(); }

void LabHeterod::Start() {
  stop_ = false;
  lease_ = std::make_unique<peer::Lease>(peer::Lease::Options{.duration = duration_, .address = "lab"});
  service_ = std::make_unique<peer::LeaseService>(*lease_);
  unlink(socket_.c_str());
  grpc::ServerBuilder builder;
  builder.AddListeningPort("unix:" + socket_, grpc::InsecureServerCredentials());
  builder.RegisterService(service_.get());
  server_ = builder.BuildAndStart();
  REQUIRE(server_ != nullptr);
  heartbeats_ = std::thread([this] {
    while (!stop_) {
      if (dpu_alive_) {
        lease_->Good({.epoch = 1, .boot_id = "lab", .ready = true}, peer::Lease::Clock::now());
      } else {
        lease_->Bad(absl::UnavailableError("no answer"));
      }
      std::this_thread::sleep_for(std::chrono::milliseconds(50));
    }
  });
}

void LabHeterod::Stop() {
  stop_ = true;
  if (heartbeats_.joinable()) heartbeats_.join();
  if (service_) service_->Stop();
  if (server_) server_->Shutdown(std::chrono::system_clock::now());
  server_.reset();
}

}  // namespace heterok8s::cri
