// What the programs of musl_test have in common: they end with a line when a call fails, and ask the library that they
// may have whether a connection moved. One thread or several; nothing is owned.
//
//   WriteAll(fd, "abc", 3);
#pragma once

#include <dlfcn.h>
#include <stdio.h>
#include <sys/types.h>
#include <unistd.h>

static inline void Die(const char* what) {
  perror(what);
  _exit(1);
}
static inline void ReadAll(int fd, void* to, size_t bytes) {
  for (char* at = (char*)to; bytes > 0;) {
    ssize_t got = read(fd, at, bytes);
    if (got <= 0) Die("read");
    at += got, bytes -= (size_t)got;
  }
}
static inline void WriteAll(int fd, const void* from, size_t bytes) {
  for (const char* at = (const char*)from; bytes > 0;) {
    ssize_t put = write(fd, at, bytes);
    if (put <= 0) Die("write");
    at += put, bytes -= (size_t)put;
  }
}
// Which directions of the connection are in shared memory: 3 is both, 0 none or no library.
static inline int Moved(int fd) {
  int (*moved)(int) = (int (*)(int))dlsym(RTLD_DEFAULT, "heterosock_moved");
  return moved ? moved(fd) : 0;
}
