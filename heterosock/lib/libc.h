// Where the two C libraries differ that the library is built for: glibc and musl.
//
// Included after the system's headers and before a function of theirs is declared or defined again.
#pragma once

#include <fcntl.h>
#include <linux/fs.h>  // RWF_NOWAIT, which musl's <sys/uio.h> lacks
#include <stdio.h>
#include <sys/sendfile.h>
#include <sys/uio.h>

namespace heterok8s::heterosock {

#ifdef __GLIBC__
using IoctlRequest = unsigned long;
using MmsgFlags = int;
#else
using IoctlRequest = int;
using MmsgFlags = unsigned;
// In musl's headers the names of large files are macros for the plain ones; here both are functions of their own, as
// programs that were built with glibc's headers call them.
#undef open64
#undef openat64
#undef creat64
#undef sendfile64
#undef freopen64
#undef preadv64v2
#undef pwritev64v2
#undef fcntl64
#endif

// A FILE made by fopencookie that says its descriptor to fileno(): only glibc lets one be had.
inline bool CanNameDescriptor() {
#ifdef __GLIBC__
  return true;
#else
  return false;
#endif
}
inline int DescriptorOf(FILE* file) {
#ifdef __GLIBC__
  return file->_fileno;
#else
  return fileno(file);
#endif
}
inline void NameDescriptor(FILE* file, int fd) {
#ifdef __GLIBC__
  file->_fileno = fd;
#else
  static_cast<void>(file), static_cast<void>(fd);
#endif
}

}  // namespace heterok8s::heterosock
