#include "heterosock/agent/closer.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#include <atomic>
#include <catch2/catch.hpp>
#include <chrono>
#include <condition_variable>
#include <future>
#include <memory>
#include <mutex>
#include <thread>

#include "common/testing/matchers.h"
#include "heterosock/agent/testing/client.h"

namespace heterok8s::heterosock::agent {
namespace {

using namespace testing;

// True when the other end of the pipe that `reader` belongs to is closed.
bool SeesTheEnd(int reader) {
  pollfd p{reader, POLLIN, 0};
  return poll(&p, 1, 20000) == 1 && (p.revents & POLLHUP) != 0;
}

TEST_CASE("what is given is closed, soon, many at once") {
  Closer closer;
  std::vector<sys::UniqueFd> readers;
  for (int i = 0; i < 200; ++i) {
    int ends[2];
    REQUIRE(pipe2(ends, O_CLOEXEC) == 0);
    readers.emplace_back(ends[0]);
    CHECK(closer.Close(sys::UniqueFd(ends[1]), "d"));
  }
  for (const sys::UniqueFd& reader : readers) CHECK(SeesTheEnd(reader.get()));
}

// A pipe whose end is given: the end of the reader says that it was closed.
sys::UniqueFd Give(Closer& closer, const std::string& domain) {
  int ends[2];
  REQUIRE(pipe2(ends, O_CLOEXEC) == 0);
  CHECK(closer.Close(sys::UniqueFd(ends[1]), domain));
  return sys::UniqueFd(ends[0]);
}

TEST_CASE("sockets that linger for minutes keep nobody waiting, however many domains have them") {
  Closer closer;
  std::vector<Connection> connections;
  for (int domain = 0; domain < 5; ++domain) {
    for (int i = 0; i < 30; ++i) {
      auto connection = MakeLingering();
      REQUIRE_OK(connection);
      CHECK(closer.Close(std::move(connection->client), "hostile" + std::to_string(domain)));
      connections.push_back(*std::move(connection));
    }
  }

  const sys::UniqueFd honest = Give(closer, "honest"), same = Give(closer, "hostile0");

  CHECK(SeesTheEnd(honest.get()));
  CHECK(SeesTheEnd(same.get()));
  CHECK_FALSE(closer.Full());
}

TEST_CASE("tasks that last keep no other domain waiting, as descriptors do not") {
  auto go = std::make_shared<std::promise<void>>();
  const std::shared_future<void> gone = go->get_future().share();
  auto done = std::make_shared<std::promise<void>>();
  const auto waits = [gone] {
    gone.wait();
    return Closer::Rest();
  };
  const auto says = [done] {
    done->set_value();
    return Closer::Rest();
  };
  Closer closer;

  for (int domain = 0; domain < 100; ++domain) {
    for (int i = 0; i < 10; ++i) closer.Do(waits, "hostile" + std::to_string(domain));
  }
  CHECK(closer.Do(says, "honest"));

  CHECK(done->get_future().wait_for(kPatience) == std::future_status::ready);
  go->set_value();
}

TEST_CASE("the rest of a task that has begun is done before the end") {
  struct Shared {
    std::promise<void> begun;
    std::atomic<bool> done{false};
  };
  const auto shared = std::make_shared<Shared>();
  auto closer = std::make_unique<Closer>();
  const auto rest = [shared] {
    shared->begun.set_value();
    std::this_thread::sleep_for(std::chrono::milliseconds(20));  // the end falls into it
    shared->done = true;
  };
  closer->Do([rest]() -> Closer::Rest { return rest; }, "d");
  REQUIRE(shared->begun.get_future().wait_for(kPatience) == std::future_status::ready);

  closer.reset();

  CHECK(shared->done);
}

TEST_CASE("no rest of a task begins after the end, and the end waits for no task that has not come to it") {
  auto go = std::make_shared<std::promise<void>>();
  const std::shared_future<void> gone = go->get_future().share();
  const auto begun = std::make_shared<std::promise<void>>();
  const auto rested = std::make_shared<std::atomic<bool>>(false);
  const auto released = std::make_shared<std::promise<void>>();
  auto closer = std::make_unique<Closer>();
  {
    // Says that nobody has the task any more.
    const std::shared_ptr<void> held(nullptr, [released](void*) { released->set_value(); });
    closer->Do(
        [=]() -> Closer::Rest {
          begun->set_value();
          gone.wait();
          return [rested, held] { *rested = true; };
        },
        "d");
  }
  REQUIRE(begun->get_future().wait_for(kPatience) == std::future_status::ready);

  closer.reset();
  go->set_value();

  CHECK(released->get_future().wait_for(kPatience) == std::future_status::ready);
  CHECK_FALSE(*rested);
}

TEST_CASE("what no signal ends takes a few threads of its domain and none of another one") {
  struct Gate {
    std::mutex mutex;
    std::condition_variable opened;
    bool open = false;
  };
  const auto gate = std::make_shared<Gate>();
  Closer closer([gate](sys::UniqueFd fd) {
    if (int type; ioctl(fd.get(), FIONREAD, &type) == 0) return;  // a pipe
    std::unique_lock lock(gate->mutex);
    gate->opened.wait(lock, [&] { return gate->open; });
  });
  const sys::UniqueFd nothing(open("/dev/null", O_RDONLY | O_CLOEXEC));
  const auto stuck = [&] { return sys::UniqueFd(fcntl(nothing.get(), F_DUPFD_CLOEXEC, 0)); };

  for (int domain = 0; domain < 100; ++domain) {
    for (int i = 0; i < 20; ++i) closer.Close(stuck(), "hostile" + std::to_string(domain));
  }
  for (int i = 0; i < 10; ++i) CHECK(SeesTheEnd(Give(closer, "honest" + std::to_string(i)).get()));
  bool told = false;
  for (int i = 0; i < 10000 && !told; ++i) told = !closer.Close(stuck(), "hostile0");
  CHECK(told);
  CHECK(closer.Saturated("hostile0"));
  CHECK_FALSE(closer.Saturated("honest0"));

  const std::lock_guard lock(gate->mutex);
  gate->open = true;
  gate->opened.notify_all();
}

}  // namespace
}  // namespace heterok8s::heterosock::agent
