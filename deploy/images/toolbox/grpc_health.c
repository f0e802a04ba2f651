// A server of gRPC's health protocol (grpc.health.v1.Health/Check), for probes of kubelet in tests.
//
//   grpc-health PORT FILE    SERVING while FILE is there, else NOT_SERVING; whatever the service's name
//
// HTTP/2 as far as one unary call needs it: frames are taken apart, what is in them is not looked at.
#include <arpa/inet.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum { DATA = 0, HEADERS = 1, SETTINGS = 4, PING = 6 };
enum { END_STREAM = 1, ACK = 1, END_HEADERS = 4 };

static void end(int signal) { _exit(0); }

static int get(int fd, void *to, size_t size) {
  for (size_t got = 0; got < size;) {
    ssize_t n = read(fd, (char *)to + got, size - got);
    if (n <= 0) return 0;
    got += n;
  }
  return 1;
}

static void put(int fd, int type, int flags, uint32_t stream, const void *payload, uint8_t size) {
  uint8_t frame[9 + 255] = {0, 0, size, type, flags, stream >> 24, stream >> 16, stream >> 8, stream};
  memcpy(frame + 9, payload, size);
  if (write(fd, frame, 9 + size) != 9 + size) _exit(1);
}

static void answer(int fd, uint32_t stream, const char *file) {
  // HPACK (RFC 7541): :status 200 of the static table; content-type and grpc-status as literals that are not indexed.
  static const char headers[] = "\x88\x0f\x10\x10" "application/grpc", trailers[] = "\x00\x0bgrpc-status\x01" "0";
  uint8_t message[] = {0, 0, 0, 0, 2, 0x08, access(file, F_OK) == 0 ? 1 : 2};  // HealthCheckResponse.status
  put(fd, HEADERS, END_HEADERS, stream, headers, sizeof headers - 1);
  put(fd, DATA, 0, stream, message, sizeof message);
  put(fd, HEADERS, END_HEADERS | END_STREAM, stream, trailers, sizeof trailers - 1);
}

static void serve(int fd, const char *file) {
  char preface[24], payload[1 << 14];  // no frame is longer unless SETTINGS allow it (RFC 9113, 4.2)
  uint8_t head[9];
  if (!get(fd, preface, sizeof preface)) return;
  put(fd, SETTINGS, 0, 0, "", 0);
  while (get(fd, head, sizeof head)) {
    uint32_t size = head[0] << 16 | head[1] << 8 | head[2], stream = (head[5] & 0x7f) << 24 | head[6] << 16 | head[7] << 8 | head[8];
    if (size > sizeof payload || !get(fd, payload, size)) return;
    if (head[3] == SETTINGS && !(head[4] & ACK)) put(fd, SETTINGS, ACK, 0, "", 0);
    if (head[3] == PING && !(head[4] & ACK) && size == 8) put(fd, PING, ACK, 0, payload, 8);
    if ((head[3] == DATA || head[3] == HEADERS) && head[4] & END_STREAM) answer(fd, stream, file);
  }
}

int main(int argc, char **argv) {
  if (argc != 3) return fprintf(stderr, "usage: grpc-health PORT FILE\n"), 2;
  signal(SIGTERM, end);
  signal(SIGCHLD, SIG_IGN);  // nobody waits for the children
  struct sockaddr_in6 here = {.sin6_family = AF_INET6, .sin6_port = htons(atoi(argv[1]))};
  int listener = socket(AF_INET6, SOCK_STREAM | SOCK_CLOEXEC, 0), one = 1;
  setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
  if (bind(listener, (struct sockaddr *)&here, sizeof here) || listen(listener, 16)) return perror("listen"), 1;
  for (;;) {
    int fd = accept(listener, NULL, NULL);
    if (fd < 0) continue;
    if (fork() == 0) return serve(fd, argv[2]), 0;
    close(fd);
  }
}
