// echo_pair [until-moved]: two processes that say 4096 bytes to each other 500 times over TCP on loopback, or on until
// the connection has moved to shared memory in both directions (20 seconds at most). Prints what came back of the first
// 500 rounds, and whether it moved: "4096 bytes, 500 rounds, sum …, moved 3".
#include <arpa/inet.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "heterosock/musl/end.h"

enum { kBytes = 4096, kRounds = 500 };

int main(int argc, char** argv) {
  const int until_moved = argc > 1 && strcmp(argv[1], "until-moved") == 0;
  unsigned char buffer[kBytes];
  struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
  socklen_t length = sizeof address;
  alarm(60);
  int listener = socket(AF_INET, SOCK_STREAM, 0);
  if (bind(listener, (struct sockaddr*)&address, sizeof address) || listen(listener, 1) ||
      getsockname(listener, (struct sockaddr*)&address, &length))
    Die("listen");
  pid_t server = fork();
  if (server == 0) {
    int fd = accept(listener, NULL, NULL);
    if (fd < 0) Die("accept");
    for (;;) {
      ssize_t got = read(fd, buffer, sizeof buffer);
      if (got == 0) _exit(0);
      if (got < 0) Die("read");
      ReadAll(fd, buffer + got, sizeof buffer - (size_t)got);
      for (int i = 0; i < kBytes; ++i) buffer[i] ^= 0x5a;
      WriteAll(fd, buffer, sizeof buffer);
    }
  }
  int fd = socket(AF_INET, SOCK_STREAM, 0);
  if (connect(fd, (struct sockaddr*)&address, sizeof address)) Die("connect");
  uint64_t sum = 0;
  const time_t end = time(NULL) + 20;
  for (int round = 0; round < kRounds || (until_moved && Moved(fd) != 3 && time(NULL) < end); ++round) {
    for (int i = 0; i < kBytes; ++i) buffer[i] = (unsigned char)(round * 31 + i);
    WriteAll(fd, buffer, sizeof buffer);
    ReadAll(fd, buffer, sizeof buffer);
    for (int i = 0; i < kBytes; ++i) {
      if (buffer[i] != ((unsigned char)(round * 31 + i) ^ 0x5a)) Die("another byte than was sent");
    }
    for (int i = 0; i < kBytes && round < kRounds; ++i) sum = sum * 1099511628211u + buffer[i];
  }
  const int moved = Moved(fd);
  close(fd);
  int status = 0;
  if (waitpid(server, &status, 0) != server || status != 0) Die("the server");
  printf("%d bytes, %d rounds, sum %016llx, moved %d\n", kBytes, kRounds, (unsigned long long)sum, moved);
  return 0;
}
