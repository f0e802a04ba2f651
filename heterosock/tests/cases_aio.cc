// Asynchronous calls: the kernel's own, and those that libc makes of threads, which read and write the descriptor
// unseen.
#include <aio.h>
#include <linux/aio_abi.h>
#include <poll.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "heterosock/tests/case.h"

namespace heterok8s::heterosock::behaviour {
namespace {

// One submission, waited for: its result, or -errno.
long Submit(End& e, aio_context_t context, uint16_t operation, uint64_t buffer, uint64_t bytes) {
  iocb order{};
  order.aio_fildes = static_cast<uint32_t>(e.sock);
  order.aio_lio_opcode = operation;
  order.aio_buf = buffer;
  order.aio_nbytes = bytes;
  iocb* orders[] = {&order};
  if (syscall(SYS_io_submit, context, 1, orders) != 1) return -errno;
  io_event event{};
  timespec moment{5, 0};
  const long n = syscall(SYS_io_getevents, context, 1, 1, &event, &moment);
  return n == 1 ? static_cast<long>(event.res) : -ETIME;
}

// With bytes that were unread when the first was submitted, and in front of bytes that the program sends itself.
CASE{"aio: the kernel's, submitted by syscall(2)",
     {.client =
          [](End& e) {
            e.SendAll(e.sock, "before");
            e.Meet();
            e.Meet();
            Sleep(20);
            e.SendAll(e.sock, "behind");
            e.Say("%s", e.RecvAll(e.sock, 10).c_str());
            e.Drain(e.sock, 10);
          },
      .server =
          [](End& e) {
            aio_context_t context = 0;
            DO(syscall(SYS_io_setup, 4, &context));
            e.Meet();
            e.AwaitBytes(e.sock, 6);
            e.Say("in %d", (Submit(e, context, IOCB_CMD_POLL, POLLIN, 0) & POLLIN) != 0);
            char bytes[20] = {};
            e.Say("%ld", Submit(e, context, IOCB_CMD_PREAD, reinterpret_cast<uint64_t>(bytes), 20));
            e.Say("%s", bytes);
            e.Meet();
            e.Say("in %d", (Submit(e, context, IOCB_CMD_POLL, POLLIN, 0) & POLLIN) != 0);
            e.Recv(e.sock, 20);
            e.Say("%ld", Submit(e, context, IOCB_CMD_PWRITE, reinterpret_cast<uint64_t>("first"), 5));
            e.SendAll(e.sock, " last");
            DO(syscall(SYS_io_submit, context, 1, nullptr));
            DO(syscall(SYS_io_submit, context, 0, nullptr));
            DO(syscall(SYS_io_destroy, context));
            DO(shutdown(e.sock, SHUT_WR));
          },
      .stays = true}};

long Finished(aiocb* order) {
  const aiocb* const orders[] = {order};
  const timespec moment{5, 0};
  while (aio_error(order) == EINPROGRESS) {
    if (aio_suspend(orders, 1, &moment) != 0 && errno != EINTR) return -errno;
  }
  const int error = aio_error(order);
  return error != 0 ? -error : aio_return(order);
}

aiocb Order(const End& e, const void* bytes, size_t size) {
  aiocb order{};
  order.aio_fildes = e.sock;
  order.aio_buf = const_cast<void*>(bytes);
  order.aio_nbytes = size;
  return order;
}

CASE{"aio: libc's, one by one",
     {.client =
          [](End& e) {
            e.SendAll(e.sock, "before");
            e.Meet();
            e.Meet();
            Sleep(20);
            e.SendAll(e.sock, "behind");
            e.Say("%s", e.RecvAll(e.sock, 10).c_str());
            e.Drain(e.sock, 10);
          },
      .server =
          [](End& e) {
            e.Meet();
            e.AwaitBytes(e.sock, 6);
            char bytes[20] = {};
            aiocb reads = Order(e, bytes, sizeof bytes);
            DO(aio_read(&reads));
            e.Say("%ld %s", Finished(&reads), bytes);
            e.Meet();
            reads = Order(e, bytes, sizeof bytes);
            DO(aio_read(&reads));
            e.Say("%ld %s", Finished(&reads), bytes);
            aiocb writes = Order(e, "first", 5);
            DO(aio_write(&writes));
            e.Say("%ld", Finished(&writes));
            e.SendAll(e.sock, " last");
            DO(shutdown(e.sock, SHUT_WR));
          },
      .stays = true}};

CASE{"aio: libc's, a list",
     {.client =
          [](End& e) {
            e.SendAll(e.sock, "before");
            e.Meet();
            e.Say("%s", e.RecvAll(e.sock, 10).c_str());
            e.Drain(e.sock, 10);
          },
      .server =
          [](End& e) {
            e.Meet();
            e.AwaitBytes(e.sock, 6);
            char bytes[20] = {};
            aiocb reads = Order(e, bytes, sizeof bytes), writes = Order(e, "first", 5), nothing = Order(e, nullptr, 0);
            reads.aio_lio_opcode = LIO_READ;
            writes.aio_lio_opcode = LIO_WRITE;
            nothing.aio_lio_opcode = LIO_NOP;
            aiocb* all[] = {&reads, nullptr, &nothing, &writes};
            DO(lio_listio(LIO_WAIT, all, 4, nullptr));
            e.Say("%ld %s", Finished(&reads), bytes);
            e.Say("%ld", Finished(&writes));
            e.SendAll(e.sock, " last");
            DO(shutdown(e.sock, SHUT_WR));
          },
      .stays = true}};

}  // namespace
}  // namespace heterok8s::heterosock::behaviour
