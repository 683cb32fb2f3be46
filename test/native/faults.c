/*
 * Loaded before libc into the harness: makes one system call that the pump makes fail, now and then.
 *
 *   FAULT=splice:EINVAL:3 LD_PRELOAD=faults.so harness cases     every third splice fails with EINVAL
 *
 * Only calls from the pump's own thread fail, so that the test's own sockets keep working; and those that start it.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/prctl.h>

static char name[32];
static int error, every;
static _Atomic unsigned calls, failed;

__attribute__((constructor)) static void read_fault(void) {
  char text[16] = "";
  const char *fault = getenv("FAULT");
  if (fault == NULL || sscanf(fault, "%31[^:]:%15[^:]:%d", name, text, &every) != 3) return;
  static const struct { const char *name; int number; } known[] = {
    {"EINVAL", EINVAL}, {"EMFILE", EMFILE}, {"ENOMEM", ENOMEM}, {"EAGAIN", EAGAIN}, {"EINTR", EINTR},
    {"EPIPE", EPIPE}, {"ECONNRESET", ECONNRESET}, {"ENOSPC", ENOSPC}, {"EPERM", EPERM}, {"ENOBUFS", ENOBUFS},
    {"ENOTCONN", ENOTCONN}, {"ECONNABORTED", ECONNABORTED}, {"ECONNREFUSED", ECONNREFUSED},
    {"EADDRNOTAVAIL", EADDRNOTAVAIL}, {"ENETUNREACH", ENETUNREACH},
  };
  for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
    if (strcmp(known[i].name, text) == 0) error = known[i].number;
  }
}

static int fails_anywhere(const char *call) {
  if (error == 0 || strcmp(call, name) != 0) return 0;
  if (atomic_fetch_add(&calls, 1) % (unsigned)every != (unsigned)every - 1) return 0;
  atomic_fetch_add(&failed, 1);
  errno = error;
  return 1;
}

__attribute__((destructor)) static void say_how_many(void) {
  if (error != 0) fprintf(stderr, "%s failed %u times\n", name, failed);
}

static int fails(const char *call) {
  if (error == 0 || strcmp(call, name) != 0) return 0;
  char thread[16] = "";
  prctl(PR_GET_NAME, thread);
  return strcmp(thread, "sluice-pump") == 0 && fails_anywhere(call);
}

#define REAL(call) ((__typeof__(&call))dlsym(RTLD_NEXT, #call))

ssize_t recv(int fd, void *data, size_t length, int flags) {
  return fails("recv") ? -1 : REAL(recv)(fd, data, length, flags);
}
ssize_t send(int fd, const void *data, size_t length, int flags) {
  return fails("send") ? -1 : REAL(send)(fd, data, length, flags);
}
extern ssize_t splice(int, long *, int, long *, size_t, unsigned);
ssize_t splice(int from, long *at, int to, long *to_at, size_t length, unsigned flags) {
  return fails("splice") ? -1 : REAL(splice)(from, at, to, to_at, length, flags);
}
extern int pipe2(int[2], int);
int pipe2(int ends[2], int flags) { return fails("pipe2") ? -1 : REAL(pipe2)(ends, flags); }
extern int fcntl(int, int, ...);
int fcntl(int fd, int command, ...) {
  va_list list;
  va_start(list, command);
  long argument = va_arg(list, long);
  va_end(list);
  return fails("fcntl") ? -1 : ((int (*)(int, int, ...))dlsym(RTLD_NEXT, "fcntl"))(fd, command, argument);
}
int epoll_ctl(int epoll, int operation, int fd, struct epoll_event *event) {
  return fails("epoll_ctl") || fails_anywhere("first epoll_ctl") ? -1 : REAL(epoll_ctl)(epoll, operation, fd, event);
}
int epoll_wait(int epoll, struct epoll_event *events, int count, int timeout) {
  return fails("epoll_wait") ? -1 : REAL(epoll_wait)(epoll, events, count, timeout);
}
int shutdown(int fd, int how) { return fails("shutdown") ? -1 : REAL(shutdown)(fd, how); }
int setsockopt(int fd, int level, int option, const void *value, socklen_t length) {
  return fails("setsockopt") ? -1 : REAL(setsockopt)(fd, level, option, value, length);
}
int getsockopt(int fd, int level, int option, void *restrict value, socklen_t *restrict length) {
  return fails("getsockopt") ? -1 : REAL(getsockopt)(fd, level, option, value, length);
}
extern int ioctl(int, unsigned long, ...);
int ioctl(int fd, unsigned long request, ...) {
  va_list list;
  va_start(list, request);
  void *argument = va_arg(list, void *);
  va_end(list);
  return fails("ioctl") ? -1 : ((int (*)(int, unsigned long, ...))dlsym(RTLD_NEXT, "ioctl"))(fd, request, argument);
}
extern ssize_t read(int, void *, size_t);
ssize_t read(int fd, void *data, size_t length) { return fails("read") ? -1 : REAL(read)(fd, data, length); }
int socket(int domain, int type, int protocol) { return fails("socket") ? -1 : REAL(socket)(domain, type, protocol); }
int connect(int fd, const struct sockaddr *to, socklen_t length) {
  return fails("connect") ? -1 : REAL(connect)(fd, to, length);
}
int accept4(int fd, struct sockaddr *restrict from, socklen_t *restrict length, int flags) {
  return fails("accept4") ? -1 : REAL(accept4)(fd, from, length, flags);
}

/* By their inner names: dlsym itself allocates. */
extern void *__libc_malloc(size_t);
extern void *__libc_calloc(size_t, size_t);
void *malloc(size_t size) { return fails("malloc") ? NULL : __libc_malloc(size); }
void *calloc(size_t count, size_t size) { return fails("calloc") ? NULL : __libc_calloc(count, size); }

int epoll_create1(int flags) { return fails_anywhere("epoll_create1") ? -1 : REAL(epoll_create1)(flags); }
extern int eventfd(unsigned, int);
int eventfd(unsigned value, int flags) { return fails_anywhere("eventfd") ? -1 : REAL(eventfd)(value, flags); }
int pthread_create(pthread_t *thread, const pthread_attr_t *attributes, void *(*run)(void *), void *argument) {
  return fails_anywhere("pthread_create") ? error : REAL(pthread_create)(thread, attributes, run, argument);
}
