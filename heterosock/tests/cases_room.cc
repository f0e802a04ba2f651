// Programs with more connections than there are descriptors for their channels.
#include <fcntl.h>
#include <sys/resource.h>
#include <unistd.h>

#include <string>
#include <vector>

#include "heterosock/tests/case.h"

namespace heterok8s::heterosock::behaviour {
namespace {

constexpr int kConnections = 45;  // 135 descriptors for their channels
constexpr rlim_t kSoft = 200, kHard = 290;
constexpr int kRounds = 20;

std::vector<int> Connections(End& e) {
  const rlimit limit{kSoft, kHard};
  DO(setrlimit(RLIMIT_NOFILE, &limit));
  if (e.role == Role::kServer) e.listener = e.Listen(kConnections);
  e.Meet();
  std::vector<int> all;
  for (int i = 0; i < kConnections; ++i) all.push_back(e.role == Role::kServer ? e.Accept() : e.Connect());
  return all;
}

// Bytes both ways on each, for longer than most of them take to move.
void Exchange(End& e, const std::vector<int>& all) {
  for (int round = 0; round < kRounds; ++round) {
    for (int fd : all) {
      if (e.role == Role::kClient) e.SendAll(fd, Pattern(100));
      e.RecvAll(fd, 100);
      if (e.role == Role::kServer) e.SendAll(fd, Pattern(100));
    }
    Sleep(2);
  }
}

std::vector<int> TakeAll() {
  std::vector<int> all;
  for (int fd; (fd = dup(0)) >= 0;) all.push_back(fd);
  return all;
}

// How many descriptors the program can still have.
void CountFree(End& e) {
  const std::vector<int> more = TakeAll();
  e.Say("%zu more, then %s", more.size(), strerrorname_np(errno));
  for (int fd : more) close(fd);
}

void UseAll(End& e) {
  const std::vector<int> all = Connections(e);
  CountFree(e);
  Exchange(e, all);
  CountFree(e);
  Exchange(e, all);
  for (int fd : all) close(fd);
}

CASE{"descriptors: channels take none that the program may have", {.client = UseAll, .server = UseAll, .bare = true}};

int Another(End& e) {
  if (e.role == Role::kServer) e.listener = e.Listen();
  e.Meet();
  const int fd = e.role == Role::kServer ? e.Accept() : e.Connect();
  if (e.role == Role::kServer) close(e.listener);
  return fd;
}

// The server has no number left for what the agent sends while its second connection would move. The third one moves.
void RunOut(End& e) {
  const int second = Another(e);
  if (e.role == Role::kServer) {
    rlimit limit{};
    getrlimit(RLIMIT_NOFILE, &limit);
    limit.rlim_cur = kSoft;
    DO(setrlimit(RLIMIT_NOFILE, &limit));
    const std::vector<int> all = TakeAll();
    Exchange(e, {second});
    for (int fd : all) close(fd);
  } else {
    Exchange(e, {second});
  }
  const int third = Another(e);
  Sleep(1000);  // no offer is made meanwhile
  for (int i = 0; i < 3 && e.warm(); ++i) e.Warm(third);
  close(second);
  close(third);
}

CASE{"descriptors: when there was none for a moment, later connections move", {.client = RunOut, .server = RunOut}};

}  // namespace
}  // namespace heterok8s::heterosock::behaviour
