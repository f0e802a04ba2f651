// large_names: opens, reads and writes a file of its own by the names that end with 64, as programs ask for them that
// were built with other headers than musl's. Prints "1" for each that did what it does: "creat64 1 open64 1 …".
#include <dlfcn.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <unistd.h>

// Who looks for the name finds the library's, libc's, or none in a libc that answers to linked programs alone.
static void* By(const char* name, void* plain) {
  void* found = dlsym(RTLD_DEFAULT, name);
  return found ? found : plain;
}

int main(void) {
  char name[] = "/proc/self/fd/000000", text[8] = "";
  const int file = memfd_create("file", MFD_CLOEXEC), copy = memfd_create("copy", MFD_CLOEXEC);
  snprintf(name, sizeof name, "/proc/self/fd/%d", file);
  int fd = ((int (*)(const char*, mode_t))By("creat64", (void*)creat))(name, 0600);
  printf("creat64 %d ", write(fd, "text", 4) == 4);
  fd = ((int (*)(const char*, int, ...))By("open64", (void*)open))(name, O_RDONLY);
  printf("open64 %d ", read(fd, text, 4) == 4 && strcmp(text, "text") == 0);
  fd = ((int (*)(int, const char*, int, ...))By("openat64", (void*)openat))(AT_FDCWD, name, O_RDWR);
  printf("openat64 %d ", read(fd, text, 4) == 4);
  printf("fcntl64 %d ", (((int (*)(int, int, ...))By("fcntl64", (void*)fcntl))(fd, F_GETFL) & O_ACCMODE) == O_RDWR);
  off_t at = 1;
  const ssize_t sent = ((ssize_t(*)(int, int, off_t*, size_t))By("sendfile64", (void*)sendfile))(copy, file, &at, 9);
  printf("sendfile64 %d\n", sent == 3 && at == 4);
  return 0;
}
