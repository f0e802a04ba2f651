#include "heterosock/agent/channel_memory.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <linux/memfd.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstddef>
#include <cstring>

#include "heterosock/layout/channel.h"

namespace heterok8s::heterosock::agent {
namespace {

constexpr int kSeals = F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL;

template <typename T>
absl::Status PreadAll(int fd, T& out, size_t offset) {
  const ssize_t got = pread(fd, &out, sizeof out, static_cast<off_t>(offset));
  if (got == static_cast<ssize_t>(sizeof out)) return absl::OkStatus();
  return got < 0 ? ErrnoToStatus(errno, "read channel memory") : absl::DataLossError("channel memory is too short");
}

// Plain copies of the lines: the bytes are another process's, and atomics cannot be copied.
struct PlainSide {
  alignas(8) unsigned char bytes[sizeof(layout::SideLines)];
  template <typename T>
  T At(size_t offset) const {
    T value;
    std::memcpy(&value, bytes + offset, sizeof value);
    return value;
  }
};

SideCounters CountersOf(const PlainSide& side) {
  using layout::SideLines;
  constexpr size_t kSender = offsetof(SideLines, sender), kReceiver = offsetof(SideLines, receiver),
                   kControl = offsetof(SideLines, control), kCounters = offsetof(SideLines, counters);
  const auto counter = [&](size_t offset) { return side.At<uint64_t>(kCounters + offset); };
  return SideCounters{
      .sent = side.At<uint64_t>(kSender + offsetof(layout::SenderLine, tail)),
      .received = side.At<uint64_t>(kReceiver + offsetof(layout::ReceiverLine, head)),
      .tcp_sent = counter(offsetof(layout::CounterLine, tcp_sent)),
      .tcp_received = counter(offsetof(layout::CounterLine, tcp_received)),
      .sends = counter(offsetof(layout::CounterLine, sends)),
      .receives = counter(offsetof(layout::CounterLine, receives)),
      .sleeps = counter(offsetof(layout::CounterLine, sleeps)),
      .rings = counter(offsetof(layout::CounterLine, rings)),
      .spins = counter(offsetof(layout::CounterLine, spins)),
      .full = counter(offsetof(layout::CounterLine, tx_full)),
      .pid = side.At<uint32_t>(kCounters + offsetof(layout::CounterLine, pid)),
      .fenced = side.At<uint32_t>(kCounters + offsetof(layout::CounterLine, fenced)),
      .switched = side.At<uint64_t>(kControl + offsetof(layout::ControlLine, switch_at)) != 0,
      .back_on_tcp = side.At<uint64_t>(kControl + offsetof(layout::ControlLine, continue_at)) != 0,
  };
}

}  // namespace

absl::StatusOr<Bell> MakeBell() {
  int ends[2];
  if (pipe2(ends, O_NONBLOCK | O_CLOEXEC) != 0) return ErrnoToStatus(errno, "make a bell");
  // A page is more rings than are ever pending; the default of 16 counts against the user's pipe-user-pages-soft.
  fcntl(ends[1], F_SETPIPE_SZ, 4096);
  Bell bell{sys::UniqueFd(ends[0]), sys::UniqueFd(ends[1])};
  // Opened once more for both: who rings is then a reader itself, so it needs not keep SIGPIPE from its program, two
  // calls for each ring. That the ringer is gone is seen as before: nobody can write.
  sys::UniqueFd both(open(fmt::format("/proc/self/fd/{}", ends[1]).c_str(), O_RDWR | O_NONBLOCK | O_CLOEXEC));
  if (both.valid()) bell.ringer = std::move(both);
  return bell;
}

bool CanSeal() {
  sys::UniqueFd fd(memfd_create("heterosock-probe", MFD_CLOEXEC | MFD_ALLOW_SEALING));
  return fd.valid() && fcntl(fd.get(), F_ADD_SEALS, kSeals) == 0;
}

absl::StatusOr<ChannelParts> MakeChannel(const ChannelName& name, uint32_t ring_bytes) {
  ChannelParts parts;
  parts.bytes = layout::ChannelBytes(ring_bytes);
  // NOEXEC_SEAL (6.3) keeps the kernel from warning once; older kernels say EINVAL.
#ifdef MFD_NOEXEC_SEAL
  constexpr unsigned kNoExec = MFD_NOEXEC_SEAL;
#else
  constexpr unsigned kNoExec = 8;
#endif
  parts.memory.reset(memfd_create("heterosock", MFD_CLOEXEC | MFD_ALLOW_SEALING | kNoExec));
  if (!parts.memory.valid()) parts.memory.reset(memfd_create("heterosock", MFD_CLOEXEC | MFD_ALLOW_SEALING));
  if (!parts.memory.valid()) return ErrnoToStatus(errno, "memfd_create");
  const int memory = parts.memory.get();
  if (ftruncate(memory, static_cast<off_t>(parts.bytes)) != 0) return ErrnoToStatus(errno, "size channel memory");

  layout::ChannelHeader header{};
  header.magic = layout::kChannelMagic;
  header.version = layout::kChannelVersion;
  header.ring_bytes = ring_bytes;
  for (int side = 0; side < 2; ++side) header.ring_offset[side] = layout::RingOffset(side, ring_bytes);
  header.channel_id = name.id;
  header.epoch = name.epoch;
  header.nonce = name.nonce;
  if (pwrite(memory, &header, sizeof header, 0) != static_cast<ssize_t>(sizeof header)) {
    return ErrnoToStatus(errno, "write channel header");
  }
  if (fcntl(memory, F_ADD_SEALS, kSeals) != 0) return ErrnoToStatus(errno, "seal channel memory");
  for (Bell& bell : parts.bells) {
    HK_ASSIGN_OR_RETURN(bell, MakeBell());
  }
  return parts;
}

absl::StatusOr<uint64_t> CheckChannel(int memory, const ChannelName& name) {
  // F_GET_SEALS fails on what is no memfd.
  const int seals = fcntl(memory, F_GET_SEALS);
  if (seals < 0 || (seals & kSeals) != kSeals) {
    return absl::InvalidArgumentError("RESUME with memory that is not sealed");
  }
  struct stat st {};
  if (fstat(memory, &st) != 0) return ErrnoToStatus(errno, "stat channel memory");
  layout::ChannelHeader header{};
  HK_RETURN_IF_ERROR(PreadAll(memory, header, 0));
  const auto bytes = static_cast<uint64_t>(st.st_size);
  if (header.magic == layout::kChannelMagic && header.version != layout::kChannelVersion) {
    return absl::UnimplementedError("RESUME with memory of another version of the layout");
  }
  if (!layout::ValidHeader(header, bytes) ||
      name != ChannelName{.id = header.channel_id, .epoch = header.epoch, .nonce = header.nonce}) {
    return absl::InvalidArgumentError("RESUME with memory of another channel");
  }
  return bytes;
}

absl::StatusOr<std::array<SideCounters, 2>> ReadCounters(int memory) {
  PlainSide sides[2];
  HK_RETURN_IF_ERROR(PreadAll(memory, sides, offsetof(layout::ChannelPage, side)));
  return std::array{CountersOf(sides[0]), CountersOf(sides[1])};
}

uint64_t UsedBytes(int memory) {
  struct stat st {};
  return fstat(memory, &st) == 0 ? static_cast<uint64_t>(st.st_blocks) * 512 : 0;
}

}  // namespace heterok8s::heterosock::agent
