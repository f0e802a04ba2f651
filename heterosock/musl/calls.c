// calls [until-moved]: what programs do with connections, one fresh connection over TCP on loopback for each: with
// `until-moved` both of its ends have moved to shared memory first. Prints a line for each, with what the calls gave:
// "poll: 4, 5, moved 3".
//
// calls child FD: what it starts of itself.
#include <aio.h>
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <spawn.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/select.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>

#include "heterosock/musl/end.h"

enum { kLarge = 3000000 };

extern char** environ;
static int until_moved;
static int a, b;  // the two ends of the connection of this part

static void Say(const char* text) { WriteAll(a, text, strlen(text)); }
static const char* Hear(int fd, size_t bytes) {
  static char text[100];
  ReadAll(fd, text, bytes);
  text[bytes] = 0;
  return text;
}
static int Wait(pid_t child) {
  int status = 0;
  if (waitpid(child, &status, 0) != child) Die("waitpid");
  return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
}
static uint64_t Sum(const unsigned char* bytes, size_t count) {
  uint64_t sum = 0;
  for (size_t i = 0; i < count; ++i) sum = sum * 1099511628211u + bytes[i];
  return sum;
}
static unsigned char* Large(void) {
  unsigned char* bytes = malloc(kLarge);
  for (int i = 0; i < kLarge; ++i) bytes[i] = (unsigned char)(i * 7 + i / 256);
  return bytes;
}
static void* Collect(void* sum) {  // all that comes until the end
  unsigned char* bytes = malloc(kLarge);
  ReadAll(b, bytes, kLarge);
  *(uint64_t*)sum = Sum(bytes, kLarge);
  free(bytes);
  return NULL;
}
static void Nonblocking(int fd) { fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK); }

static void Connect(void) {
  struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
  socklen_t length = sizeof address;
  const int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (bind(listener, (struct sockaddr*)&address, sizeof address) || listen(listener, 1) ||
      getsockname(listener, (struct sockaddr*)&address, &length))
    Die("listen");
  a = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (connect(a, (struct sockaddr*)&address, sizeof address)) Die("connect");
  b = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
  if (b < 0) Die("accept4");
  close(listener);
  const time_t end = time(NULL) + 20;
  for (int i = 0; i < 20 || (until_moved && (Moved(a) != 3 || Moved(b) != 3) && time(NULL) < end); ++i) {
    Say("ping");
    Hear(b, 4);
    WriteAll(b, "pong", 4);
    Hear(a, 4);
  }
}

static void Poll(void) {
  struct pollfd one = {.fd = b, .events = POLLIN | POLLOUT};
  int ready = poll(&one, 1, 0);
  printf("%d %x, ", ready, one.revents);
  one.events = POLLIN;
  ready = poll(&one, 1, 10);
  printf("%d %x, ", ready, one.revents);
  Say("x");
  ready = poll(&one, 1, -1);
  printf("%d %x, ", ready, one.revents);
  printf("%s", Hear(b, 1));
}
static void Select(void) {
  fd_set set;
  FD_ZERO(&set);
  FD_SET(b, &set);
  Say("x");
  const int ready = select(b + 1, &set, NULL, NULL, NULL);
  printf("%d %d %s", ready, FD_ISSET(b, &set) != 0, Hear(b, 1));
}
static void EpollSays(int set, int timeout_ms) {
  struct epoll_event event = {.events = 0};
  const int ready = epoll_wait(set, &event, 1, timeout_ms);
  printf("%d %x %d, ", ready, event.events, event.data.u32);
}
static void Epoll(void) {
  char bytes[8];
  const int set = epoll_create1(EPOLL_CLOEXEC);
  struct epoll_event event = {.events = EPOLLIN | EPOLLRDHUP | EPOLLET, .data.u32 = 7};
  Nonblocking(b);
  if (epoll_ctl(set, EPOLL_CTL_ADD, b, &event)) Die("epoll_ctl");
  EpollSays(set, 0);
  Say("abc");
  EpollSays(set, -1);
  const int got = (int)read(b, bytes, sizeof bytes), more = (int)read(b, bytes, sizeof bytes);
  printf("%d %d %d, ", got, more, errno == EAGAIN);
  EpollSays(set, 10);
  shutdown(a, SHUT_WR);
  EpollSays(set, -1);
  printf("%d", (int)read(b, bytes, sizeof bytes));
  close(set);
}
static void Threads(void) {
  uint64_t sum = 0;
  unsigned char* bytes = Large();
  pthread_t reader;
  if (pthread_create(&reader, NULL, Collect, &sum)) Die("pthread_create");
  for (size_t at = 0, piece = 1; at < kLarge; at += piece, piece = piece * 3 % 70001 + 1)
    WriteAll(a, bytes + at, at + piece < kLarge ? piece : kLarge - at);
  pthread_join(reader, NULL);
  printf("%d", sum == Sum(bytes, kLarge));
  free(bytes);
}
static void* Read1(void* text) { return read(b, text, 1) == 1 ? text : NULL; }
static void Cancel(void) {
  char byte = 0;
  void* end = NULL;
  pthread_t reader;
  if (pthread_create(&reader, NULL, Read1, &byte)) Die("pthread_create");
  usleep(20000);  // mostly it sleeps by then; either way it ends
  pthread_cancel(reader);
  pthread_join(reader, &end);
  Say("y");
  printf("%d %s", end == PTHREAD_CANCELED, Hear(b, 1));
}
static void Fork(void) {
  Say("one");
  const pid_t child = fork();
  if (child == 0) {
    const int same = strcmp(Hear(b, 3), "one") == 0;
    WriteAll(b, "two", 3);
    _exit(same ? 5 : 6);
  }
  printf("%d ", Wait(child));
  printf("%s ", Hear(a, 3));
  Say("three");
  printf("%s", Hear(b, 5));
}
static void Exec(void) {
  Say("one");  // unread as it becomes another program
  const pid_t child = fork();
  if (child == 0) {
    char number[12];
    fcntl(b, F_SETFD, 0);
    snprintf(number, sizeof number, "%d", b);
    execl("/proc/self/exe", "calls", "child", number, (char*)NULL);
    Die("execl");
  }
  printf("%d ", Wait(child));
  printf("%s", Hear(a, 3));
}
static void Spawn(void) {
  Say("one");
  char* argv[] = {"calls", "child", "0", NULL};
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_adddup2(&actions, b, 0);
  pid_t child;
  if ((errno = posix_spawn(&child, "/proc/self/exe", &actions, NULL, argv, environ)) != 0) Die("posix_spawn");
  posix_spawn_file_actions_destroy(&actions);
  printf("%d ", Wait(child));
  printf("%s", Hear(a, 3));
}
static void Shell(void) {
  Say("one");
  char line[20] = "";
  FILE* pipe = popen("echo two", "r");
  fgets(line, sizeof line, pipe);
  printf("%d %.3s ", pclose(pipe), line);
  printf("%d %s", WEXITSTATUS(system("exit 3")), Hear(b, 3));
}
static void Stdio(void) {
  char line[20] = "";
  FILE* file = fdopen(dup(b), "r+");
  dprintf(a, "%s %d\n", "line", 1);
  fgets(line, sizeof line, file);
  fprintf(file, "answer %d\n", 2);
  fflush(file);
  printf("%.6s %d ", line, fileno(file) >= 0);
  printf("%.8s ", Hear(a, 9));
  printf("%d ", fclose(file));
  Say("z");
  printf("%s", Hear(b, 1));
}
static void Sendfile(void) {
  uint64_t sum = 0;
  unsigned char* bytes = Large();
  const int file = memfd_create("large", MFD_CLOEXEC);
  WriteAll(file, bytes, kLarge);
  pthread_t reader;
  if (pthread_create(&reader, NULL, Collect, &sum)) Die("pthread_create");
  off_t at = 0;
  while (at < kLarge) {
    if (sendfile(a, file, &at, kLarge) <= 0) Die("sendfile");
  }
  pthread_join(reader, NULL);
  printf("%d", sum == Sum(bytes, kLarge));
  close(file);
  free(bytes);
}
static void Shutdown(void) {
  char byte[8];
  Say("one");
  printf("%d ", shutdown(a, SHUT_WR));
  signal(SIGPIPE, SIG_IGN);
  const int put = (int)write(a, "x", 1);
  printf("%d %d, ", put, errno == EPIPE);
  printf("%s ", Hear(b, 3));
  printf("%d ", (int)read(b, byte, sizeof byte));
  WriteAll(b, "two", 3);
  printf("%s", Hear(a, 3));
}
static void Aio(void) {
  Say("one");
  char text[8] = "";
  struct aiocb order = {.aio_fildes = b, .aio_buf = text, .aio_nbytes = sizeof text - 1};
  const struct aiocb* list[] = {&order};
  if (aio_read(&order)) Die("aio_read");
  while (aio_error(&order) == EINPROGRESS) aio_suspend(list, 1, NULL);
  printf("%d ", (int)aio_return(&order));
  printf("%s", text);
}
static void Pass(void) {
  int pair[2];
  if (socketpair(AF_UNIX, SOCK_STREAM, 0, pair)) Die("socketpair");
  Say("one");
  char byte = 0;
  union {
    struct cmsghdr header;
    char room[CMSG_SPACE(sizeof(int))];
  } control;
  memset(&control, 0, sizeof control);
  struct iovec part = {&byte, 1};
  struct msghdr message = {
      .msg_iov = &part, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof control};
  control.header =
      (struct cmsghdr){.cmsg_len = CMSG_LEN(sizeof(int)), .cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS};
  memcpy(CMSG_DATA(&control.header), &b, sizeof b);
  if (sendmsg(pair[0], &message, 0) != 1) Die("sendmsg");
  close(b);
  if (recvmsg(pair[1], &message, MSG_CMSG_CLOEXEC) != 1) Die("recvmsg");
  memcpy(&b, CMSG_DATA(&control.header), sizeof b);
  printf("%s", Hear(b, 3));
  close(pair[0]);
  close(pair[1]);
}

static sigjmp_buf before;
static volatile sig_atomic_t jumps;
static void Handle(int number) {
  if (jumps) siglongjmp(before, number);
}
static void Signals(void) {
  struct sigaction action = {.sa_handler = Handle};
  struct itimerspec soon = {.it_value.tv_nsec = 20000000,
                            .it_interval.tv_nsec = 20000000};  // again, should it be early
  timer_t timer;
  sigaction(SIGUSR1, &action, NULL);
  if (timer_create(CLOCK_MONOTONIC, &(struct sigevent){.sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGUSR1}, &timer))
    Die("timer_create");
  char byte;
  jumps = 0;
  timer_settime(timer, 0, &soon, NULL);
  const int got = (int)recv(b, &byte, 1, 0);
  printf("%d %d, ", got, errno == EINTR);
  if (sigsetjmp(before, 1) == 0) {
    jumps = 1;
    recv(b, &byte, 1, 0);
    printf("received, ");
  }
  jumps = 0;
  timer_delete(timer);
  Say("w");
  printf("%s", Hear(b, 1));
}

static int Child(int fd) {
  const int same = strcmp(Hear(fd, 3), "one") == 0;
  WriteAll(fd, "two", 3);
  return same ? 5 : 6;
}

int main(int argc, char** argv) {
  static const struct {
    const char* name;
    void (*run)(void);
  } parts[] = {{"poll", Poll},     {"select", Select},   {"epoll", Epoll},       {"threads", Threads},
               {"cancel", Cancel}, {"fork", Fork},       {"exec", Exec},         {"posix_spawn", Spawn},
               {"a shell", Shell}, {"stdio", Stdio},     {"sendfile", Sendfile}, {"shutdown", Shutdown},
               {"aio", Aio},       {"SCM_RIGHTS", Pass}, {"signals", Signals}};
  if (argc > 2) return Child(atoi(argv[2]));
  until_moved = argc > 1;
  setvbuf(stdout, NULL, _IOLBF, 0);
  alarm(200);
  for (size_t i = 0; i < sizeof parts / sizeof *parts; ++i) {
    Connect();
    const int moved = Moved(a) & Moved(b);
    printf("%s: ", parts[i].name);
    parts[i].run();
    printf(", moved %d\n", moved);
    close(a);
    close(b);
  }
  return 0;
}
