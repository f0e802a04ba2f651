// One socket call at a time, told in words: what a test or a person needs inside a container that has no tools.
//
//   netprobe bind tcp|udp ADDRESS PORT [SECONDS]   bind (tcp: and listen), hold it; "ok" or "EADDRINUSE"
//   netprobe serve tcp|udp ADDRESS PORT            answer every call with "local NAME peer NAME" and what was sent
//   netprobe call tcp|udp ADDRESS PORT [TEXT]      send TEXT (\r and \n are understood); prints "local NAME peer NAME"
//                                                  and what comes back
// Exit code 0: the call succeeded; 1: it failed, the errno's name is the output; 2: wrong usage. No call waits longer
// than three seconds.
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

static int udp;

// As a container's first process it would not end at SIGTERM by itself.
static void end(int signal) { _exit(0); }

static int fail(const char *what) {
  const char *name = strerrorname_np(errno);
  printf("%s %s\n", name ? name : "EUNKNOWN", what);
  return 1;
}

static int usage(void) {
  fprintf(stderr, "usage: netprobe bind|serve|call tcp|udp ADDRESS PORT [SECONDS|TEXT]\n");
  return 2;
}

static socklen_t parse(const char *address, const char *port, struct sockaddr_storage *out) {
  struct sockaddr_in *v4 = (struct sockaddr_in *)out;
  struct sockaddr_in6 *v6 = (struct sockaddr_in6 *)out;
  memset(out, 0, sizeof *out);
  if (inet_pton(AF_INET, address, &v4->sin_addr) == 1) {
    v4->sin_family = AF_INET;
    v4->sin_port = htons(atoi(port));
    return sizeof *v4;
  }
  if (inet_pton(AF_INET6, address, &v6->sin6_addr) == 1) {
    v6->sin6_family = AF_INET6;
    v6->sin6_port = htons(atoi(port));
    return sizeof *v6;
  }
  return 0;
}

static const char *text(const struct sockaddr_storage *address, char *buffer, size_t size) {
  char ip[INET6_ADDRSTRLEN] = "?";
  if (address->ss_family == AF_INET) {
    const struct sockaddr_in *v4 = (const struct sockaddr_in *)address;
    inet_ntop(AF_INET, &v4->sin_addr, ip, sizeof ip);
    snprintf(buffer, size, "%s:%d", ip, ntohs(v4->sin_port));
  } else {
    const struct sockaddr_in6 *v6 = (const struct sockaddr_in6 *)address;
    inet_ntop(AF_INET6, &v6->sin6_addr, ip, sizeof ip);
    snprintf(buffer, size, "[%s]:%d", ip, ntohs(v6->sin6_port));
  }
  return buffer;
}

// "local 127.0.0.1:8080 peer 127.0.0.1:40000", as getsockname and getpeername say it, or `from` instead of the latter.
static void names(int fd, const struct sockaddr_storage *from, char *out, size_t size) {
  struct sockaddr_storage local = {0}, peer = {0};
  socklen_t length = sizeof local;
  char local_text[64], peer_text[64];
  getsockname(fd, (struct sockaddr *)&local, &length);
  length = sizeof peer;
  if (from)
    peer = *from;
  else
    getpeername(fd, (struct sockaddr *)&peer, &length);
  snprintf(out, size, "local %s peer %s", text(&local, local_text, sizeof local_text), text(&peer, peer_text, sizeof peer_text));
}

static void limit(int fd) {
  struct timeval three = {3, 0};
  setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &three, sizeof three);
  setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &three, sizeof three);
}

static int open_bound(const struct sockaddr_storage *address, socklen_t length) {
  int one = 1, fd = socket(address->ss_family, (udp ? SOCK_DGRAM : SOCK_STREAM) | SOCK_CLOEXEC, 0);
  if (fd < 0) return -1;
  if (!udp) setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);  // TIME_WAIT is nobody's claim
  if (address->ss_family == AF_INET6) setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &one, sizeof one);
  if (bind(fd, (const struct sockaddr *)address, length) != 0 || (!udp && listen(fd, 64) != 0)) {
    int saved = errno;
    close(fd);
    errno = saved;
    return -1;
  }
  return fd;
}

static void serve(int fd) {
  for (;;) {
    struct sockaddr_storage from = {0};
    socklen_t length = sizeof from;
    char in[2048], said[256], out[4096];
    if (udp) {
      ssize_t n = recvfrom(fd, in, sizeof in, 0, (struct sockaddr *)&from, &length);
      if (n < 0) continue;
      names(fd, &from, said, sizeof said);
      sendto(fd, out, snprintf(out, sizeof out, "%s\n%.*s", said, (int)n, in), 0, (struct sockaddr *)&from, length);
      continue;
    }
    int peer = accept4(fd, NULL, NULL, SOCK_CLOEXEC);
    if (peer < 0) continue;
    limit(peer);
    ssize_t n = recv(peer, in, sizeof in, 0);
    names(peer, NULL, said, sizeof said);
    printf("%s\n", said);
    fflush(stdout);
    if (n >= 0) send(peer, out, snprintf(out, sizeof out, "%s\n%.*s", said, (int)n, in), MSG_NOSIGNAL);
    close(peer);
  }
}

static size_t unescape(const char *in, char *out) {
  char *start = out;
  for (; *in; ++in) {
    if (in[0] == '\\' && (in[1] == 'n' || in[1] == 'r'))
      *out++ = *++in == 'n' ? '\n' : '\r';
    else
      *out++ = *in;
  }
  return out - start;
}

static int call(const struct sockaddr_storage *address, socklen_t length, const char *message) {
  char buffer[4096], said[256];
  int fd = socket(address->ss_family, (udp ? SOCK_DGRAM : SOCK_STREAM) | SOCK_CLOEXEC, 0);
  if (fd < 0) return fail("socket");
  limit(fd);
  if (connect(fd, (const struct sockaddr *)address, length) != 0) return fail("connect");
  names(fd, NULL, said, sizeof said);
  size_t size = strlen(message) < sizeof buffer ? unescape(message, buffer) : 0;
  if (send(fd, buffer, size, MSG_NOSIGNAL) < 0) return fail("send");
  printf("%s\n", said);
  ssize_t n, total = 0;
  while ((n = recv(fd, buffer, sizeof buffer, 0)) > 0) {
    fwrite(buffer, 1, n, stdout);
    total += n;
    if (udp) break;
    struct timeval soon = {0, 300000};  // a server that keeps the connection has said what it had to
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &soon, sizeof soon);
  }
  if (total == 0) return fail("receive");
  printf("\n");
  return 0;
}

int main(int argc, char **argv) {
  struct sockaddr_storage address;
  socklen_t length;
  if (argc < 5 || (strcmp(argv[2], "tcp") && strcmp(argv[2], "udp"))) return usage();
  udp = !strcmp(argv[2], "udp");
  if (!(length = parse(argv[3], argv[4], &address))) return usage();
  signal(SIGPIPE, SIG_IGN);
  signal(SIGTERM, end);
  if (!strcmp(argv[1], "call")) return call(&address, length, argc > 5 ? argv[5] : "hello\n");
  int fd = open_bound(&address, length);
  if (fd < 0) return fail("bind");
  printf("ok\n");
  fflush(stdout);
  if (!strcmp(argv[1], "serve")) serve(fd);
  if (strcmp(argv[1], "bind")) return usage();
  sleep(argc > 5 ? atoi(argv[5]) : 0);
  return 0;
}
