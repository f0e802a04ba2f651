#include "heterosock/agent/hand_back.h"

#include <dirent.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <linux/memfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "common/sys/chandle.h"
#include "heterosock/layout/channel.h"

namespace heterok8s::heterosock::agent {
namespace {

using Folder = sys::CHandle<DIR, closedir>;

constexpr size_t kMostFiles = 65536;  // of a process that are looked at

// The first page of a channel, unmapped at the end.
class Page {
 public:
  explicit Page(int memory)
      : at_(mmap(nullptr, sizeof(layout::ChannelPage), PROT_READ | PROT_WRITE, MAP_SHARED, memory, 0)) {}
  ~Page() {
    if (valid()) munmap(at_, sizeof(layout::ChannelPage));
  }
  Page(const Page&) = delete;
  Page& operator=(const Page&) = delete;
  bool valid() const { return at_ != MAP_FAILED; }
  layout::ChannelPage* operator->() const { return static_cast<layout::ChannelPage*>(at_); }

 private:
  void* at_;
};

// Writes [from, to) of a ring to the socket, as far as it takes them. Returns the offset it came to.
uint64_t Write(int memory, uint64_t ring_at, uint64_t size, uint64_t base, uint64_t from, uint64_t to, int socket) {
  std::vector<char> piece(64 << 10);
  while (from < to) {
    const uint64_t at = (from - base) & (size - 1);
    const uint64_t n = std::min({to - from, size - at, static_cast<uint64_t>(piece.size())});
    const ssize_t got = pread(memory, piece.data(), n, static_cast<off_t>(ring_at + at));
    if (got <= 0) break;
    const ssize_t sent = send(socket, piece.data(), static_cast<size_t>(got), MSG_DONTWAIT | MSG_NOSIGNAL);
    if (sent < 0 && errno == EINTR) continue;
    if (sent <= 0) break;
    from += static_cast<uint64_t>(sent);
  }
  return from;
}

}  // namespace

absl::StatusOr<sys::UniqueFd> TakeSocket(int pidfd, pid_t pid, uint64_t inode, uint64_t cookie) {
  const std::string path = fmt::format("/proc/{}/fd", pid), wanted = fmt::format("socket:[{}]", inode);
  Folder folder(opendir(path.c_str()));
  if (folder == nullptr) return ErrnoToStatus(errno, fmt::format("open {}", path));
  size_t looked = 0;
  while (const dirent* entry = readdir(folder.get())) {
    char target[64];
    const ssize_t length = readlinkat(dirfd(folder.get()), entry->d_name, target, sizeof target);
    if (++looked > kMostFiles) break;
    if (length <= 0 || std::string_view(target, static_cast<size_t>(length)) != wanted) continue;
    sys::UniqueFd fd(static_cast<int>(syscall(SYS_pidfd_getfd, pidfd, std::atoi(entry->d_name), 0)));
    if (!fd.valid()) return ErrnoToStatus(errno, fmt::format("pidfd_getfd of process {}", pid));
    uint64_t found = 0;
    socklen_t bytes = sizeof found;
    // The number may mean another file by now.
    if (getsockopt(fd.get(), SOL_SOCKET, SO_COOKIE, &found, &bytes) == 0 && found == cookie) return fd;
  }
  return absl::NotFoundError(fmt::format("process {} does not have the socket any more", pid));
}

bool CalledBack(int memory, int receiver) {
  uint64_t recall = 0;
  const size_t at = offsetof(layout::ChannelPage, side) + static_cast<size_t>(receiver) * sizeof(layout::SideLines) +
                    offsetof(layout::SideLines, control) + offsetof(layout::ControlLine, recall_at);
  return pread(memory, &recall, sizeof recall, static_cast<off_t>(at)) == sizeof recall && recall != 0;
}

absl::Status AskForTcp(int memory) {
  Page page(memory);
  if (!page.valid()) return ErrnoToStatus(errno, "map channel memory");
  for (layout::SideLines& side : page->side) side.wait.flags.fetch_or(layout::kFlagWantTcp);
  return absl::OkStatus();
}

absl::StatusOr<uint64_t> HandBack(int memory, int receiver, int socket) {
  struct stat st {};
  const int seals = fcntl(memory, F_GET_SEALS);
  if (seals < 0 || (seals & F_SEAL_SHRINK) == 0) return absl::FailedPreconditionError("memory that may shrink");
  if (fstat(memory, &st) != 0) return ErrnoToStatus(errno, "stat channel memory");
  Page page(memory);
  if (!page.valid()) return ErrnoToStatus(errno, "map channel memory");
  layout::ChannelHeader header;
  std::memcpy(&header, &page->header, sizeof header);
  layout::SideLines& sender = page->side[1 - receiver];
  const uint64_t recall = page->side[receiver].control.recall_at.load();
  if (!layout::ValidHeader(header, static_cast<uint64_t>(st.st_size)) || recall == 0)
    return absl::FailedPreconditionError("nothing was called back");

  uint32_t nobody = 0;
  if (!sender.control.returning.compare_exchange_strong(nobody, layout::kAgentReturns))
    return absl::AlreadyExistsError("the sender does it");
  // A sender that publishes behind this tail sees the recall, and finds that we are at it.
  const uint64_t from = recall - 1, tail = sender.sender.tail.load();
  const uint64_t size = sender.sender.ring_size.load(), base = sender.sender.ring_base.load();
  const bool possible = tail - from <= size && size <= header.ring_bytes && size != 0 && (size & (size - 1)) == 0;
  const uint64_t to = possible ? Write(memory, header.ring_offset[1 - receiver], size, base, from, tail, socket) : from;
  sender.control.returned_to.store(to + 1);
  if (!possible) return absl::FailedPreconditionError("the ring says what cannot be");
  return to - from;
}

}  // namespace heterok8s::heterosock::agent
