// Asynchronous calls read, write and wait where no wrapper sees it: the kernel's in the kernel, libc's in threads that
// call read and write within libc (handle_fildes_io() in glibc's sysdeps/pthread/aio_misc.c: a socket refuses pread
// with ESPIPE). A connection that is given to one goes to TCP before it, and stays there.
//
// Others than liburing's ring these name their descriptors with each call, so a program that reads files so keeps its
// connections where they are.
//
// Threading: any.
#include <aio.h>
#include <errno.h>
#include <linux/aio_abi.h>

#include "heterosock/hooks/hook.h"
#include "heterosock/lib/real.h"
#include "heterosock/upgrade/upgrade.h"

using namespace heterok8s::heterosock;  // NOLINT

namespace heterok8s::heterosock {

void BeforeSubmit(long count, iocb* const* orders) {
  if (NoAddress(orders)) return;
  for (long i = 0; i < count; ++i) {
    uint32_t slot;
    const iocb* order = orders[i];
    if (NoAddress(order)) return;  // the kernel takes those before it
    const int fd = static_cast<int>(order->aio_fildes);
    if (StreamOf(fd, &slot)) FenceAndSettle(slot, fd, Reason::kAio);
  }
}

}  // namespace heterok8s::heterosock

namespace {

void Before(const void* order) {
  if (NoAddress(order)) return;
  const int fd = static_cast<const aiocb*>(order)->aio_fildes;
  uint32_t slot;
  if (StreamOf(fd, &slot)) FenceAndSettle(slot, fd, Reason::kAio);
}

// Looked up when called: they are in librt before glibc 2.34, which a program that has no use for them does not load.
int Start(const char* name, void* order) {
  Before(order);
  const auto next = reinterpret_cast<int (*)(void*)>(NextFunction(name));
  if (next != nullptr) return next(order);
  errno = ENOSYS;
  return -1;
}

// Also what is not an operation is looked at; the address alone says which entries are none.
int StartList(const char* name, int mode, void* const* orders, int count, sigevent* event) {
  for (int i = 0; i < count && !NoAddress(orders); ++i) Before(orders[i]);
  const auto next = reinterpret_cast<int (*)(int, void* const*, int, sigevent*)>(NextFunction(name));
  if (next != nullptr) return next(mode, orders, count, event);
  errno = ENOSYS;
  return -1;
}

}  // namespace

// The names with 64 are other symbols for the same functions: glibc's where off_t has 64 bits, musl's everywhere.
#undef aio_read64
#undef aio_write64
#undef lio_listio64
#ifdef __GLIBC__
using Orders = aiocb* const*;
using Order64 = aiocb64;
static_assert(sizeof(aiocb) == sizeof(aiocb64) && offsetof(aiocb, aio_fildes) == offsetof(aiocb64, aio_fildes));
#else
using Orders = aiocb* __restrict const*;
using Order64 = aiocb;
#endif
HETEROSOCK_EXPORT int aio_read(aiocb* order) { return Start("aio_read", order); }
HETEROSOCK_EXPORT int aio_read64(Order64* order) { return Start("aio_read", order); }
HETEROSOCK_EXPORT int aio_write(aiocb* order) { return Start("aio_write", order); }
HETEROSOCK_EXPORT int aio_write64(Order64* order) { return Start("aio_write", order); }
HETEROSOCK_EXPORT int lio_listio(int mode, Orders orders, int count, sigevent* event) {
  return StartList("lio_listio", mode, reinterpret_cast<void* const*>(const_cast<aiocb* const*>(orders)), count, event);
}
HETEROSOCK_EXPORT int lio_listio64(int mode, Order64* const* orders, int count, sigevent* event) {
  return StartList("lio_listio", mode, reinterpret_cast<void* const*>(orders), count, event);
}

// libaio's, which makes the system call itself.
HETEROSOCK_EXPORT int io_submit(aio_context_t context, long count, iocb** orders) {
  BeforeSubmit(count, orders);
  const auto next = reinterpret_cast<int (*)(aio_context_t, long, iocb**)>(NextFunction("io_submit"));
  return next != nullptr ? next(context, count, orders) : -ENOSYS;
}
