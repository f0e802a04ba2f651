#include "node-agent/peer/lease_service.h"

#include <fmt/format.h>
#include <grpcpp/create_channel.h>
#include <grpcpp/server_builder.h>
#include <unistd.h>

#include <thread>

#include "common/testing/matchers.h"

namespace heterok8s::peer {
namespace {

using std::chrono::milliseconds;
using std::chrono::minutes;
using std::chrono::seconds;

// A lease, told over a Unix socket to one reader.
class Told {
 public:
  explicit Told(Lease& lease) : service_(lease), socket_(fmt::format("/tmp/hk-lease-service-{}.sock", getpid())) {
    unlink(socket_.c_str());
    grpc::ServerBuilder builder;
    builder.AddListeningPort("unix:" + socket_, grpc::InsecureServerCredentials());
    builder.RegisterService(&service_);
    server_ = builder.BuildAndStart();
    REQUIRE(server_ != nullptr);
    stub_ = v1::PeerLease::NewStub(grpc::CreateChannel("unix:" + socket_, grpc::InsecureChannelCredentials()));
    context_.set_wait_for_ready(true);
    context_.set_deadline(std::chrono::system_clock::now() + minutes(2));  // nothing here takes as long
    v1::WatchLeaseRequest request;
    request.set_at_least_every_ms(100);
    reader_ = stub_->Watch(&context_, request);
  }
  ~Told() {
    context_.TryCancel();
    v1::LeaseWord ignored;
    while (reader_->Read(&ignored)) {
    }
    reader_->Finish();
    service_.Stop();
    server_->Shutdown();
    unlink(socket_.c_str());
  }
  v1::LeaseWord Next() {
    v1::LeaseWord word;
    REQUIRE(reader_->Read(&word));
    return word;
  }
  v1::LeaseWord NextThatIs(v1::LeaseWord::State state) {
    while (true) {
      v1::LeaseWord word = Next();
      if (word.state() == state) return word;
    }
  }
  LeaseService& service() { return service_; }
  grpc::ClientReader<v1::LeaseWord>& reader() { return *reader_; }

 private:
  LeaseService service_;
  std::string socket_;
  std::unique_ptr<grpc::Server> server_;
  std::unique_ptr<v1::PeerLease::Stub> stub_;
  grpc::ClientContext context_;
  std::unique_ptr<grpc::ClientReader<v1::LeaseWord>> reader_;
};

}  // namespace

TEST_CASE("the state is told at once, again while nothing happens, and after a heartbeat") {
  Lease lease({.duration = minutes(10)});
  Told told(lease);
  CHECK(told.Next().state() == v1::LeaseWord::UNKNOWN);
  CHECK(told.Next().age_ms() == -1);

  lease.Good({.epoch = 7, .boot_id = "b", .ready = true}, Lease::Clock::now());

  const v1::LeaseWord alive = told.NextThatIs(v1::LeaseWord::ALIVE);
  CHECK(alive.peer_epoch() == 7);
  CHECK(alive.peer_boot_id() == "b");
  CHECK(alive.left_ms() > 0);
  CHECK(alive.age_ms() >= 0);
}

TEST_CASE("the end of a lease is told although no heartbeat tells of it") {
  Lease lease({.duration = milliseconds(500)});
  lease.Good({.epoch = 7, .boot_id = "b", .ready = true}, Lease::Clock::now());
  Told told(lease);

  CHECK(told.NextThatIs(v1::LeaseWord::LOST).reason() == "heartbeats stopped");
}

TEST_CASE("a peer that never had a heartbeat is lost after one lease, not before") {
  Lease lease({.duration = seconds(5)}, Lease::Clock::time_point(seconds(1000)));

  CHECK(ToProto(lease.StateAt(Lease::Clock::time_point(milliseconds(1004999)))).state() == v1::LeaseWord::UNKNOWN);
  CHECK(ToProto(lease.StateAt(Lease::Clock::time_point(seconds(1005)))).state() == v1::LeaseWord::LOST);
}

TEST_CASE("a heterod that ends lets its readers go") {
  Lease lease({.duration = minutes(10)});
  Told told(lease);
  told.Next();

  told.service().Stop();

  v1::LeaseWord word;
  while (told.reader().Read(&word)) {
  }
  SUCCEED();
}

}  // namespace heterok8s::peer
