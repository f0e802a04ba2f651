#include <fcntl.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstring>
#include <sstream>

#include "heterosock/tests/hostile.h"

namespace heterok8s::heterosock::behaviour {
namespace {

uint64_t Evil(std::mt19937_64& random) {
  static constexpr uint64_t kValues[] = {
      0,          1,          2,          127,   4096,         1 << 17,   1 << 20, (1 << 20) + 1,
      1ull << 31, 1ull << 32, 1ull << 62, ~0ull, ~0ull - 4096, ~0ull >> 1};
  return random() % 3 ? kValues[random() % std::size(kValues)] : random();
}

// As an honest end: sends some more of the stream, and takes what came.
void Talk(End& e, size_t n) {
  static size_t said = 0;
  std::string bytes(n, '\0');
  for (size_t i = 0; i < n; ++i) bytes[i] = ByteAt(said + i);
  const ssize_t sent = send(e.sock, bytes.data(), n, MSG_DONTWAIT | MSG_NOSIGNAL);
  if (sent > 0) said += static_cast<size_t>(sent);
  recv(e.sock, bytes.data(), n, MSG_DONTWAIT);
}

// Both ends are asked to go back to TCP, as each may ask the other.
void AskForTcp(const Mapping& mapping) {
  for (layout::SideLines& side : Page(mapping).side) side.wait.flags.fetch_or(layout::kFlagWantTcp);
}

// Writes to `field` again and again until the time is over, now and then what was there; in the second half of it the
// library at this end, which meets the same lies, sends and receives meanwhile.
template <typename T>
void Forge(End& e, std::atomic<T>& field, std::mt19937_64& random) {
  const T right = field.load();
  const auto begin = std::chrono::steady_clock::now();
  for (auto now = begin; now < begin + kAttackTime; now = std::chrono::steady_clock::now()) {
    T value = static_cast<T>(random() % 2 ? Evil(random) : field.load() + Evil(random) % (4 << 20));
    field.store(random() % 8 == 0 ? right : value);
    if (random() % 4 == 0) usleep(100);
    if (now > begin + kAttackTime / 2 && random() % 16 == 0) Talk(e, 1 + random() % 700);
  }
}

void SayAgentReturns(End&, const Mapping& mapping, std::mt19937_64&) {
  layout::SideLines &its = Mine(mapping, false), &own = Mine(mapping);
  its.control.returning.store(layout::kAgentReturns);
  own.control.recall_at.store(own.receiver.head.load() + 1);
  own.wait.flags.fetch_or(layout::kFlagWantTcp);
}

// The attacker's part of such an agent: it writes nothing itself, so that the victim brings everything back.
void BeSlow(End& e, const Mapping& mapping) {
  layout::SideLines &its = Mine(mapping, false), &own = Mine(mapping);
  Sleep(100);
  its.control.returned_to.store(own.control.recall_at.load());
  // The victim only waits by now: it has to notice by itself.
  for (int i = 0; i < 60'000 && its.control.continue_at.load() == 0; ++i) Sleep(1);
  const std::string bytes = e.RecvAll(e.sock, 2 * kSent);
  e.Say("whole %d", bytes == std::string(2 * kSent, kVictims));
}

// Both sides' lines: the attacker may write the victim's too, since both are in one memory.
#define FORGE_OF(when, line, field, at, ...)                 \
  Attack {                                                   \
    .name = "forges " #line "." #field " of side " #at when, \
    .act =                                                   \
        [](End& e, const Mapping& m, auto& random) {         \
          if (when[0] == ',') AskForTcp(m);                  \
          Forge(e, Page(m).side[at].line.field, random);     \
        },                                                   \
    __VA_ARGS__                                              \
  }
#define FORGE(line, field) FORGE_OF("", line, field, 0, .honest = false), FORGE_OF("", line, field, 1, .honest = false)
#define FORGE_HONEST(line, field) \
  FORGE_OF("", line, field, 0, .honest = true), FORGE_OF("", line, field, 1, .honest = true)
#define FORGE_EARLY(line, field)                                          \
  FORGE_OF(" while the connection moves", line, field, 0, .early = true), \
      FORGE_OF(" while the connection moves", line, field, 1, .early = true)
#define FORGE_LATE(line, field)                                \
  FORGE_OF(", asked for TCP", line, field, 0, .early = false), \
      FORGE_OF(", asked for TCP", line, field, 1, .early = false)

const std::vector<Attack> kAttacks = {
    FORGE(sender, tail),
    FORGE(sender, ring_base),
    FORGE(sender, ring_size),
    FORGE(receiver, head),
    FORGE_HONEST(wait, rx_sleep),
    FORGE_HONEST(wait, rx_patient),
    FORGE_HONEST(wait, corks),
    FORGE_HONEST(wait, tx_sleep),
    FORGE_HONEST(wait, flags),
    FORGE_HONEST(wait, cpu),
    FORGE_HONEST(wait, rang_at),
    FORGE(control, switch_at),
    FORGE(control, continue_at),
    FORGE(control, recall_at),
    FORGE(control, returned_to),
    FORGE(control, returning),
    FORGE_HONEST(control, armed_epoch),
    FORGE_HONEST(control, armed_nonce),
    FORGE_HONEST(counters, pid),
    FORGE_EARLY(control, armed_epoch),
    FORGE_EARLY(control, armed_nonce),
    FORGE_EARLY(control, switch_at),
    FORGE_EARLY(control, continue_at),
    FORGE_EARLY(control, recall_at),
    FORGE_EARLY(control, returned_to),
    FORGE_EARLY(control, returning),
    FORGE_EARLY(wait, flags),
    FORGE_LATE(control, armed_epoch),
    FORGE_LATE(control, armed_nonce),
    FORGE_LATE(control, switch_at),
    FORGE_LATE(control, continue_at),
    FORGE_LATE(control, recall_at),
    FORGE_LATE(control, returned_to),
    FORGE_LATE(control, returning),
    FORGE_LATE(sender, tail),
    FORGE_LATE(receiver, head),
    {"floods the page with one value",
     [](End&, const Mapping& m, auto& random) {
       std::memset(m.at, static_cast<int>(random() % 256), sizeof(layout::ChannelPage));
     }},
    {"floods the lines with noise, over and over",
     [](End&, const Mapping& m, auto& random) {
       auto end = std::chrono::steady_clock::now() + kAttackTime;
       while (std::chrono::steady_clock::now() < end) {
         auto* words = reinterpret_cast<uint64_t*>(Page(m).side);
         words[random() % (sizeof Page(m).side / 8)] = Evil(random);
       }
     }},
    {"replays an old page",
     [](End& e, const Mapping& m, auto&) {
       layout::ChannelPage old;
       std::memcpy(static_cast<void*>(&old), m.at, sizeof old);
       for (int i = 0; i < 20; ++i) {
         Talk(e, 5000);
         usleep(1000);
       }
       std::memcpy(m.at, static_cast<void*>(&old), sizeof old);
     }},
    {"truncates and punches the memory",
     [](End& e, const Mapping& m, auto&) {
       for (const std::string& folder : {std::string("/proc/self/fd/"), std::string("/proc/self/map_files/")}) {
         std::string name;
         if (folder.find("map_files") != std::string::npos) {
           std::ostringstream text;
           text << folder << std::hex << reinterpret_cast<uintptr_t>(m.at) << "-"
                << reinterpret_cast<uintptr_t>(m.at) + m.size;
           name = text.str();
           int fd = open(name.c_str(), O_RDWR);
           if (fd < 0) continue;
           e.Say("truncate %d", ftruncate(fd, 0));
           fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, static_cast<off_t>(m.size));
           close(fd);
           continue;
         }
         for (int fd = 3; fd < 4096; ++fd) {
           char target[256];
           ssize_t n = readlink((folder + std::to_string(fd)).c_str(), target, sizeof target - 1);
           if (n < 0) continue;
           target[n] = 0;
           if (!std::strstr(target, "memfd:") || std::strstr(target, "hk-stage")) continue;
           if (ftruncate(fd, 0) == 0) e.Say("truncated");
           fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, static_cast<off_t>(m.size));
         }
       }
       madvise(m.at, m.size, MADV_REMOVE);
     }},
    {"dies with the lines in disorder",
     [](End&, const Mapping& m, auto& random) {
       for (layout::SideLines& side : Page(m).side) {
         side.sender.tail.store(Evil(random));
         side.wait.rx_sleep.store(1);
       }
       kill(getpid(), SIGKILL);
     }},
    {.name = "says that the agent brings the victim's bytes back", .act = SayAgentReturns, .before = true},
    {.name = "has a slow agent", .act = SayAgentReturns, .before = true, .slow = true},
    {.name = "has a slow agent, and a victim that may block",
     .act = SayAgentReturns,
     .before = true,
     .slow = true,
     .blocks = true},
    {.name = "stops for good and lets the victim wait",
     .act = [](End&, const Mapping&, auto&) { raise(SIGSTOP); },
     .honest = true,
     .stops = true},
};

}  // namespace

const std::vector<Attack>& Attacks() { return kAttacks; }

void Join(End& e, const Attack& what) {
  if (e.role == Role::kServer) {
    e.listener = e.Listen();
    e.Meet();
    e.sock = e.Accept();
  } else {
    e.Meet();
    e.sock = e.Connect();
  }
  if (!what.early) e.Warm(e.sock);
}

void AttackerEnd(End& e, const Attack& what, uint64_t seed) {
  Join(e, what);
  std::mt19937_64 random(seed);
  std::vector<Mapping> channels = Channels();
  for (int i = 0; i < 5000 && what.early && channels.empty(); ++i, channels = Channels()) {
    Talk(e, 100);
    usleep(1000);
  }
  e.Say("channels %zu", channels.size());
  e.Tell(getpid());
  if (!what.before) e.Meet();
  if (!what.slow) Talk(e, kSent);
  for (const Mapping& each : channels) what.act(e, each, random);
  if (what.before) {
    e.Meet();
    for (const Mapping& each : channels) {
      if (what.slow) BeSlow(e, each);
    }
    if (what.blocks) e.Meet();
    if (what.slow) Talk(e, 1);
    e.Meet();
    _exit(0);
  }
  for (int i = 0; i < 20; ++i) {
    Talk(e, kSent);
    usleep(500);
  }
  _exit(0);
}

}  // namespace heterok8s::heterosock::behaviour
