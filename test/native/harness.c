/*
 * Drives the pump from C, without Node, so that sanitizers, valgrind and injected faults see nothing but the pump.
 *
 *   harness cases               each edge case once, with assertions
 *   harness stress SECONDS SEED checksummed traffic over many connections whose peers are killed at random
 *   harness faults SECONDS SEED the same while faults.c makes calls fail: ends may be early, bytes never wrong
 *   harness start               starts a pump again and again while faults.c makes that fail
 *   harness memory              calls a pump that faults.c gives no memory
 *   harness deaf                calls a pump whose second listener faults.c keeps from being watched at first
 *   harness proxy PORT TO_PORT  a TCP proxy on 127.0.0.1, to measure with
 *
 * Exits 0, or says on standard error what went wrong and exits 1.
 */
#define _GNU_SOURCE
#include "../../src/native/pump.h"
#include <arpa/inet.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define CHECK(condition) \
  do { \
    if (!(condition)) { \
      fprintf(stderr, "%s:%d: %s (errno %d)\n", __func__, __LINE__, #condition, errno); \
      exit(1); \
    } \
  } while (0)

static int reports; /* an eventfd: readable when pump_take_ended has something */

static void on_ended(void *context) {
  (void)context;
  uint64_t one = 1;
  if (write(reports, &one, sizeof one) < 0) abort();
}

static uint64_t now_ms(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

static int open_files(void) {
  DIR *directory = opendir("/proc/self/fd");
  int count = -3; /* ., .., and this directory */
  while (readdir(directory) != NULL) count++;
  closedir(directory);
  return count;
}

static int listener(uint16_t *port) {
  int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  int on = 1;
  setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
  struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(*port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
  socklen_t length = sizeof address;
  CHECK(bind(fd, (struct sockaddr *)&address, length) == 0 && listen(fd, 4096) == 0);
  CHECK(getsockname(fd, (struct sockaddr *)&address, &length) == 0);
  *port = ntohs(address.sin_port);
  return fd;
}

static int dial(uint16_t port, bool blocking) {
  int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | (blocking ? 0 : SOCK_NONBLOCK), 0);
  int on = 1;
  setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
  struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
  if (connect(fd, (struct sockaddr *)&address, sizeof address) != 0 && errno != EINPROGRESS) {
    close(fd);
    return -1;
  }
  return fd;
}

/* Two ends of one TCP connection: `ends[0]` for the test, `ends[1]`, non-blocking, for the pump. */
static void tcp_pair(int ends[2]) {
  uint16_t port = 0;
  int listening = listener(&port);
  ends[0] = dial(port, true);
  CHECK(ends[0] >= 0);
  ends[1] = accept4(listening, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
  CHECK(ends[1] >= 0);
  int on = 1;
  setsockopt(ends[1], IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
  close(listening);
}

/* ---- cases ---- */

static struct pump *pump;
static int client, upstream; /* the ends of the test */
static uint32_t id;

static struct pump_connection pair_up(void) {
  int c[2], u[2];
  tcp_pair(c);
  tcp_pair(u);
  client = c[0];
  upstream = u[0];
  struct timeval patience = {.tv_sec = 20};
  setsockopt(client, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
  setsockopt(upstream, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
  return (struct pump_connection){.client = c[1], .upstream = u[1]};
}

static void begin_with(struct pump_connection connection) {
  int64_t added = pump_add(pump, &connection);
  CHECK(added >= 0);
  id = (uint32_t)added;
}

static struct pump_ended take_ended(void) {
  struct pump_ended ended;
  while (pump_take_ended(pump, &ended, 1) == 0) {
    struct pollfd wait = {.fd = reports, .events = POLLIN};
    CHECK(poll(&wait, 1, 20000) == 1);
    uint64_t count;
    CHECK(read(reports, &count, sizeof count) == sizeof count);
  }
  return ended;
}

static void ends_as(enum pump_end end, int error) {
  struct pump_ended ended = take_ended();
  if (ended.end != (uint32_t)end || ended.error != error || ended.id != id) {
    fprintf(stderr, "ended %u error %d, expected %u error %d\n", ended.end, ended.error, end, error);
    exit(1);
  }
  close(client);
  close(upstream);
}

static void write_all(int fd, const void *data, size_t length) {
  CHECK(send(fd, data, length, MSG_NOSIGNAL) == (ssize_t)length);
}

static void reads(int fd, const char *expected) {
  char got[256];
  size_t length = strlen(expected);
  CHECK(recv(fd, got, length, MSG_WAITALL) == (ssize_t)length && memcmp(got, expected, length) == 0);
}

static void reads_end(int fd) {
  char byte;
  CHECK(recv(fd, &byte, 1, 0) == 0);
}

static void reads_reset(int fd) {
  char byte;
  CHECK(recv(fd, &byte, 1, 0) < 0 && errno == ECONNRESET);
}

static void reset(int fd) {
  struct linger linger = {.l_onoff = 1};
  setsockopt(fd, SOL_SOCKET, SO_LINGER, &linger, sizeof linger);
  close(fd);
}

static void messages_and_goodbyes(void) {
  begin_with(pair_up());
  write_all(client, "ping", 4);
  reads(upstream, "ping");
  write_all(upstream, "pong!", 5);
  reads(client, "pong!");
  uint64_t sent, received;
  pump_count(pump, id, &sent, &received);
  CHECK(sent == 4 && received == 5);
  shutdown(client, SHUT_WR);
  reads_end(upstream);
  write_all(upstream, "after", 5); /* half-closed is not closed */
  reads(client, "after");
  shutdown(upstream, SHUT_WR);
  reads_end(client);
  ends_as(PUMP_CLOSED, 0);
}

static void heads_go_first(void) {
  struct pump_connection connection = pair_up();
  write_all(client, " world", 6);
  connection.to_upstream = (struct pump_bytes){"hello", 5};
  connection.to_client = (struct pump_bytes){"220 ", 4};
  begin_with(connection);
  write_all(upstream, "ready", 5);
  reads(upstream, "hello world");
  reads(client, "220 ready");
  close(client);
  reads_end(upstream);
  close(upstream);
  client = upstream = -1;
  struct pump_ended ended = take_ended();
  CHECK(ended.end == PUMP_CLOSED && ended.sent == 11 && ended.received == 9);
}

static void bytes_before_an_end_arrive(void) {
  begin_with(pair_up());
  write_all(client, "last words", 10);
  shutdown(client, SHUT_WR);
  reads(upstream, "last words");
  reads_end(upstream);
  write_all(upstream, "mine", 4);
  close(upstream);
  upstream = -1;
  reads(client, "mine");
  reads_end(client);
  ends_as(PUMP_CLOSED, 0);
}

static void a_reset_is_a_reset(bool by_client) {
  begin_with(pair_up());
  write_all(client, "a", 1);
  reads(upstream, "a");
  reset(by_client ? client : upstream);
  reads_reset(by_client ? upstream : client);
  if (by_client) client = -1;
  else upstream = -1;
  ends_as(by_client ? PUMP_CLIENT_LOST : PUMP_UPSTREAM_LOST, ECONNRESET);
}

static void bytes_before_a_reset_arrive(void) {
  begin_with(pair_up());
  write_all(client, "request that is never read", 26);
  char data[50000];
  memset(data, 'x', sizeof data);
  write_all(upstream, data, sizeof data);
  close(upstream); /* with unread bytes: the kernel sends a reset */
  upstream = -1;
  CHECK(recv(client, data, sizeof data, MSG_WAITALL) == sizeof data);
  char byte;
  CHECK(recv(client, &byte, 1, 0) <= 0);
  struct pump_ended ended = take_ended();
  CHECK(ended.received == sizeof data);
  close(client);
}

static void a_reset_after_a_goodbye_is_noticed(void) {
  begin_with(pair_up());
  shutdown(upstream, SHUT_WR);
  reads_end(client);
  write_all(client, "x", 1);
  reads(upstream, "x");
  reset(upstream);
  upstream = -1;
  ends_as(PUMP_UPSTREAM_LOST, EPIPE);
}

static void a_gone_reader_is_noticed(void) {
  begin_with(pair_up());
  close(client);
  client = -1;
  reads_end(upstream);
  int on = 1;
  setsockopt(upstream, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
  for (int i = 0; i < 1000; i++) {
    if (send(upstream, "x", 1, MSG_NOSIGNAL) < 0) break;
    usleep(100);
  }
  struct pump_ended ended = take_ended();
  CHECK(ended.end == PUMP_CLIENT_LOST && (ended.error == EPIPE || ended.error == ECONNRESET));
  close(upstream);
}

enum { BULK_BYTES = 2 << 20 };

/* On a thread of its own: bulk, an urgent byte, and bulk again. */
static void *send_bulk(void *fd) {
  static char bulk[BULK_BYTES];
  memset(bulk, 'b', sizeof bulk);
  write_all(*(int *)fd, bulk, sizeof bulk);
  CHECK(send(*(int *)fd, "U", 1, MSG_OOB) == 1);
  write_all(*(int *)fd, bulk, sizeof bulk);
  return NULL;
}

/* Bulk around the mark: splice would wait at it for ever. */
static void bulk_passes(void) {
  static char got[2 * BULK_BYTES + 1];
  pthread_t sender;
  int fd = client;
  CHECK(pthread_create(&sender, NULL, send_bulk, &fd) == 0);
  CHECK(recv(upstream, got, sizeof got, MSG_WAITALL) == (ssize_t)sizeof got);
  CHECK(pthread_join(sender, NULL) == 0);
  CHECK(got[BULK_BYTES] == 'U' && got[0] == 'b' && got[sizeof got - 1] == 'b');
}

static void urgent_bytes_stay_in_place(void) {
  begin_with(pair_up());
  write_all(client, "be", 2);
  CHECK(send(client, "f", 1, MSG_OOB) == 1);
  write_all(client, "ore", 3);
  reads(upstream, "before");
  bulk_passes();
  shutdown(client, SHUT_RDWR);
  shutdown(upstream, SHUT_RDWR);
  ends_as(PUMP_CLOSED, 0);
}

static size_t fill(int fd) {
  static char block[1 << 16];
  size_t total = 0;
  int quiet = 0;
  while (quiet < 50) {
    ssize_t n = send(fd, block, sizeof block, MSG_NOSIGNAL | MSG_DONTWAIT);
    if (n > 0) {
      total += (size_t)n;
      quiet = 0;
    } else {
      usleep(1000);
      quiet++;
    }
  }
  return total;
}

static void a_closed_window_holds_and_lets_go(void) {
  begin_with(pair_up());
  size_t sent = fill(client); /* nobody reads at the other side */
  uint64_t counted, received;
  pump_count(pump, id, &counted, &received);
  CHECK(counted < sent);
  write_all(upstream, "other way", 9); /* is not held up */
  reads(client, "other way");
  shutdown(client, SHUT_WR);
  static char block[1 << 20];
  size_t got = 0;
  for (ssize_t n; (n = recv(upstream, block, sizeof block, 0)) > 0;) got += (size_t)n;
  CHECK(got == sent);
  shutdown(upstream, SHUT_WR);
  reads_end(client);
  ends_as(PUMP_CLOSED, 0);
}

static void told_with_bytes_in_flight(void) {
  begin_with(pair_up());
  fill(client);
  pump_tell_close(pump, id);
  pump_tell_close(pump, id);
  ends_as(PUMP_TOLD, 0);
}

static void an_order_too_late_hits_nobody_else(void) {
  begin_with(pair_up());
  shutdown(client, SHUT_WR);
  shutdown(upstream, SHUT_WR);
  usleep(50000); /* it has ended, and nobody took the report yet */
  uint32_t first = id;
  pump_tell_close(pump, id);
  ends_as(PUMP_CLOSED, 0);
  begin_with(pair_up());
  CHECK(id == first);
  write_all(client, "alive", 5);
  reads(upstream, "alive");
  pump_tell_close(pump, id);
  ends_as(PUMP_TOLD, 0);
  begin_with(pair_up());
  pump_tell_close(pump, id); /* before the pump has even seen it */
  ends_as(PUMP_TOLD, 0);
}

static void silence_ends(void) {
  struct pump_connection connection = pair_up();
  connection.idle_ms = 60;
  connection.half_closed_ms = 10000;
  uint64_t began = now_ms();
  begin_with(connection);
  write_all(client, "x", 1);
  reads(upstream, "x");
  ends_as(PUMP_IDLE, 0);
  CHECK(now_ms() - began >= 55);

  connection = pair_up();
  connection.idle_ms = 10000;
  connection.half_closed_ms = 60;
  begin_with(connection);
  usleep(100000); /* longer than half_closed_ms, and not half-closed */
  write_all(client, "x", 1);
  shutdown(client, SHUT_WR);
  reads(upstream, "x");
  reads_end(upstream);
  ends_as(PUMP_HALF_CLOSED, 0);
}

static void deadlines_keep_their_order(void) {
  enum { COUNT = 100 };
  int ends[COUNT][2];
  for (int i = 0; i < COUNT; i++) {
    struct pump_connection connection = pair_up();
    ends[i][0] = client;
    ends[i][1] = upstream;
    connection.idle_ms = 30 + (uint64_t)(i * 37 % COUNT) * 3;
    if (i % 10 == 0) connection.idle_ms = 0;
    begin_with(connection);
  }
  for (int i = 0; i < COUNT / 10; i++) pump_tell_close(pump, (uint32_t)i * 10 + (id + 1 - COUNT));
  for (int i = 0; i < COUNT; i++) {
    struct pump_ended ended = take_ended();
    CHECK(ended.end == PUMP_IDLE || ended.end == PUMP_TOLD);
  }
  for (int i = 0; i < COUNT; i++) {
    close(ends[i][0]);
    close(ends[i][1]);
  }
}

static struct pump_address on_loopback(uint16_t port) {
  return (struct pump_address){.ip = {[10] = 0xff, [11] = 0xff, [12] = 127, [15] = 1}, .port = port, .family = 4};
}

/* The next question about a listener. Who called the one of a case before, when that was over, is turned away. */
static struct pump_accepted take_accepted(int number) {
  struct pump_accepted accepted;
  for (;;) {
    while (pump_take_accepted(pump, &accepted, 1) == 0) {
      struct pollfd wait = {.fd = reports, .events = POLLIN};
      CHECK(poll(&wait, 1, 20000) == 1);
      uint64_t count;
      CHECK(read(reports, &count, sizeof count) == sizeof count);
    }
    if (accepted.listener == (uint32_t)number) return accepted;
    close(pump_release(pump, accepted.id));
    pump_left(pump, (int)accepted.listener);
  }
}

static void one_question_serves_many(void) {
  uint16_t port = 0, back_port = 0;
  int front = listener(&port), back = listener(&back_port);
  fcntl(front, F_SETFL, O_NONBLOCK);
  struct pump_listening listening = {.fd = front, .destination = on_loopback(back_port), .connections_max = 8};
  struct pump_dial_options options = {.user_timeout_ms = 30000, .keepalive_s = 10};
  pump_set_dial_options(pump, &options);
  int number = pump_listen(pump, &listening);
  CHECK(number >= 0);
  struct pump_route route = {.upstream = on_loopback(back_port), .connect_ms = 5000, .idle_ms = 20000, .tag = 7, .good_ms = 60000};
  for (int i = 0; i < 5; i++) {
    client = dial(port, true);
    write_all(client, "hello", 5);
    if (i == 0) {
      struct pump_accepted asked = take_accepted(number);
      CHECK(asked.open == 1 && asked.tag == 0 && asked.peer.family == 4 && asked.destination.port == back_port);
      pump_take_route(pump, asked.id, &route);
    }
    upstream = accept4(back, NULL, NULL, SOCK_CLOEXEC);
    reads(upstream, "hello");
    struct pump_accepted listed;
    uint32_t from = 0;
    CHECK(pump_list(pump, &from, &listed, 1) == 1 && listed.tag == 7);
    if (i == 4) break;
    shutdown(client, SHUT_WR);
    reads_end(upstream);
    shutdown(upstream, SHUT_WR);
    struct pump_ended ended = take_ended();
    CHECK(ended.end == PUMP_CLOSED && ended.accepted.tag == 7 && ended.sent == 5);
    close(client);
    close(upstream);
  }
  uint32_t from = 0;
  struct pump_accepted listed;
  CHECK(pump_list(pump, &from, &listed, 1) == 1);
  pump_tell_close(pump, listed.id);
  id = listed.id;
  ends_as(PUMP_TOLD, 0);

  close(back); /* nobody there */
  client = dial(port, true);
  struct pump_ended ended = take_ended();
  CHECK(ended.end == PUMP_NOT_CONNECTED && ended.error == ECONNREFUSED);
  reads_reset(client);
  close(client);

  pump_forget_routes(pump);
  client = dial(port, true);
  struct pump_accepted asked = take_accepted(number);
  int released = pump_release(pump, asked.id);
  write_all(client, "yours", 5);
  char got[5];
  for (ssize_t n = -1; n < 0;) n = recv(released, got, 5, MSG_WAITALL);
  CHECK(memcmp(got, "yours", 5) == 0);
  close(released);
  pump_left(pump, number);
  close(client);
  pump_stop_listening(pump, number);
  for (int fd = 0; fd >= 0; usleep(1000)) {
    fd = dial(port, true);
    if (fd >= 0) close(fd);
  }
}

/*
 * Linked with --wrap: what the kernel says of a redirected connection, where there is no redirect; and that the system's
 * congestion control is BBR.
 */
static struct sockaddr_in redirected_from;
static bool has_bbr;
extern int __real_getsockopt(int fd, int level, int option, void *value, socklen_t *length);
int __wrap_getsockopt(int fd, int level, int option, void *value, socklen_t *length);
int __wrap_getsockopt(int fd, int level, int option, void *value, socklen_t *length) {
  enum { ORIGINAL_DST = 80 };
  if (has_bbr && level == IPPROTO_TCP && option == TCP_CONGESTION) {
    memcpy(value, "bbr", 4);
    return 0;
  }
  if (level != IPPROTO_IP || option != ORIGINAL_DST) return __real_getsockopt(fd, level, option, value, length);
  memcpy(value, &redirected_from, sizeof redirected_from);
  return 0;
}

/* What the pump dials is redirected to its own listener, as where the rules do not spare the proxy. */
static void what_comes_back_is_known(void) {
  uint16_t port = 0;
  int front = listener(&port);
  fcntl(front, F_SETFL, O_NONBLOCK);
  redirected_from = (struct sockaddr_in){
    .sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
  struct pump_listening listening = {.fd = front, .connections_max = 8};
  int number = pump_listen(pump, &listening);
  struct pump_route route = {.upstream = on_loopback(port), .connect_ms = 5000, .tag = 3, .good_ms = 60000};
  client = dial(port, true);
  struct pump_accepted asked = take_accepted(number);
  CHECK(!asked.is_own && asked.destination.port == port);
  pump_take_route(pump, asked.id, &route);
  /* The route is known now, and would be taken for ever. */
  asked = take_accepted(number);
  CHECK(asked.is_own && asked.open == 2);
  close(pump_release(pump, asked.id));
  pump_left(pump, number);
  close(client);
  struct pump_ended ended = take_ended();
  CHECK(ended.accepted.tag == 3);
  /* The same two ends, once the dial is over, are a stranger's. */
  pump_forget_routes(pump);
  client = dial(port, true);
  asked = take_accepted(number);
  CHECK(!asked.is_own);
  close(pump_release(pump, asked.id));
  pump_left(pump, number);
  close(client);
  pump_stop_listening(pump, number);
}

/* The ends of connections on routes are told many at a time, and counted before they are told. */
static void totals_hold_until_the_report(void) {
  uint16_t port = 0, back_port = 0;
  int front = listener(&port), back = listener(&back_port);
  fcntl(front, F_SETFL, O_NONBLOCK);
  struct pump_listening listening = {.fd = front, .destination = on_loopback(back_port), .connections_max = 100};
  int number = pump_listen(pump, &listening);
  struct pump_route route = {.upstream = on_loopback(back_port), .connect_ms = 5000, .tag = 9, .good_ms = 60000};
  enum { COUNT = 20 };
  for (int i = 0; i < COUNT; i++) {
    client = dial(port, true);
    write_all(client, "count me", 8);
    if (i == 0) pump_take_route(pump, take_accepted(number).id, &route);
    upstream = accept4(back, NULL, NULL, SOCK_CLOEXEC);
    reads(upstream, "count me");
    close(client);
    reads_end(upstream);
    close(upstream);
  }
  struct pump_totals totals = pump_total(pump, number);
  CHECK(totals.open == COUNT && totals.sent == COUNT * 8 && totals.received == 0);
  for (int i = 0; i < COUNT; i++) CHECK(take_ended().end == PUMP_CLOSED);
  CHECK(pump_total(pump, number).open == 0);
  pump_stop_listening(pump, number);
  close(back);
}

static bool is_reno(int fd) {
  char name[16] = "";
  socklen_t length = sizeof name;
  CHECK(__real_getsockopt(fd, IPPROTO_TCP, TCP_CONGESTION, name, &length) == 0);
  return strcmp(name, "reno") == 0;
}

/* The pump's end of a connection, which is in this same process, by the other end's. */
static int other_end(int fd) {
  struct sockaddr_in peer, found;
  socklen_t length = sizeof peer;
  CHECK(getpeername(fd, (struct sockaddr *)&peer, &length) == 0);
  for (int other = 3; other < 4096; other++) {
    struct sockaddr_in theirs;
    length = sizeof found;
    if (getsockname(other, (struct sockaddr *)&found, &length) != 0 || found.sin_port != peer.sin_port) continue;
    length = sizeof theirs;
    if (getpeername(other, (struct sockaddr *)&theirs, &length) == 0) return other;
  }
  CHECK(false);
  return -1;
}

/* Keepalive and the user timeout are set a second after the connect, when most connections are over. */
static void who_stays_is_tuned(void) {
  uint16_t port = 0, back_port = 0;
  int front = listener(&port), back = listener(&back_port);
  fcntl(front, F_SETFL, O_NONBLOCK);
  struct pump_dial_options options = {.user_timeout_ms = 31234, .keepalive_s = 77};
  pump_set_dial_options(pump, &options);
  struct pump_listening listening = {.fd = front, .destination = on_loopback(back_port), .connections_max = 8};
  int number = pump_listen(pump, &listening);
  struct pump_route route = {.upstream = on_loopback(back_port), .connect_ms = 5000, .tag = 4, .good_ms = 60000};
  client = dial(port, true);
  pump_take_route(pump, take_accepted(number).id, &route);
  upstream = accept4(back, NULL, NULL, SOCK_CLOEXEC);
  int fd = other_end(upstream);
  int timeout = 0, idle = 0, on = 0;
  for (int tries = 0; timeout != 31234 || idle != 77 || on != 1; tries++) {
    CHECK(tries < 2000);
    usleep(10000);
    socklen_t length = sizeof timeout;
    getsockopt(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &timeout, &length);
    getsockopt(fd, IPPROTO_TCP, TCP_KEEPIDLE, &idle, &length);
    getsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &on, &length);
  }
  close(client);
  reads_end(upstream);
  close(upstream);
  CHECK(take_ended().end == PUMP_CLOSED);
  pump_stop_listening(pump, number);
  close(back);
}

/* Where BBR paces, neither side of a connection within the machine is paced; what is farther away stays as it is. */
static void who_is_near_is_not_paced(void) {
  for (int near = 0; near < 2; near++) {
    uint16_t port = 0, back_port = 0;
    int front = listener(&port), back = listener(&back_port);
    fcntl(front, F_SETFL, O_NONBLOCK);
    bool reno_anyway = is_reno(back);
    struct pump_listening listening = {
      .fd = front, .destination = on_loopback(back_port), .connections_max = 8, .is_near = near};
    has_bbr = true;
    int number = pump_listen(pump, &listening);
    has_bbr = false;
    struct pump_route route = {
      .upstream = on_loopback(back_port), .connect_ms = 5000, .tag = 5, .good_ms = 60000, .is_near = near};
    client = dial(port, true);
    pump_take_route(pump, take_accepted(number).id, &route);
    upstream = accept4(back, NULL, NULL, SOCK_CLOEXEC);
    CHECK(is_reno(other_end(client)) == (near || reno_anyway));
    CHECK(is_reno(other_end(upstream)) == (near || reno_anyway));
    close(client);
    reads_end(upstream);
    close(upstream);
    CHECK(take_ended().end == PUMP_CLOSED);
    pump_stop_listening(pump, number);
    close(back);
  }
}

/* A descriptor that has a duplicate stays watched after its close. */
static void an_event_too_late_hits_nobody_else(void) {
  uint16_t port = 0, back_port = 0;
  int front = listener(&port), back = listener(&back_port);
  fcntl(front, F_SETFL, O_NONBLOCK);
  listen(back, 0);
  int first_in_row = dial(back_port, true); /* the next one waits */
  struct pump_listening listening = {.fd = front, .destination = on_loopback(back_port), .connections_max = 8};
  int number = pump_listen(pump, &listening);

  struct pump_connection connection = pair_up();
  int duplicate = fcntl(connection.client, F_DUPFD_CLOEXEC, 0);
  begin_with(connection);
  pump_tell_close(pump, id);
  CHECK(take_ended().id == id);
  int old_client = client, old_upstream = upstream;

  int waiting = dial(port, true);
  struct pump_accepted asked = take_accepted(number);
  CHECK(asked.id == id);
  struct pump_route route = {.upstream = on_loopback(back_port), .connect_ms = 60000, .tag = 6, .good_ms = 60000};
  CHECK(pump_take_route(pump, asked.id, &route) == 0);
  CHECK(pump_take_route(pump, asked.id, &route) == -EINVAL && pump_release(pump, asked.id) == -EINVAL);
  struct pump_accepted listed;
  for (uint32_t from = 0; pump_list(pump, &from, &listed, 1) == 0; from = 0) usleep(1000);
  usleep(20000);
  reset(old_client); /* an error, of which epoll tells with the old number */
  for (int i = 0; i < 2; i++) { /* by then the pump has seen it */
    begin_with(pair_up());
    write_all(client, "later", 5);
    reads(upstream, "later");
    pump_tell_close(pump, id);
    ends_as(PUMP_TOLD, 0);
  }
  uint32_t from = 0;
  CHECK(pump_list(pump, &from, &listed, 1) == 1 && listed.id == asked.id);
  pump_tell_close(pump, asked.id);
  CHECK(take_ended().end == PUMP_TOLD);
  close(duplicate);
  close(old_upstream);
  close(waiting);
  close(first_in_row);
  pump_stop_listening(pump, number);
  close(back);
}

/* Pipes are for bytes on their way: who is silent holds two descriptors. */
static void who_is_silent_holds_no_pipe(void) {
  int before = open_files();
  begin_with(pair_up());
  bulk_passes();
  for (int tries = 0; open_files() != before + 4; tries++) {
    CHECK(tries < 20000);
    usleep(1000);
  }
  shutdown(client, SHUT_RDWR);
  shutdown(upstream, SHUT_RDWR);
  ends_as(PUMP_CLOSED, 0);
}

static void cases(uint32_t pipes_max) {
  int before = open_files();
  pump = pump_start(pipes_max, on_ended, NULL);
  CHECK(pump != NULL);
  deadlines_keep_their_order();
  who_is_silent_holds_no_pipe(); /* early: of the cases after it pipes may be left for a second */
  messages_and_goodbyes();
  heads_go_first();
  bytes_before_an_end_arrive();
  a_reset_is_a_reset(true);
  a_reset_is_a_reset(false);
  bytes_before_a_reset_arrive();
  a_reset_after_a_goodbye_is_noticed();
  a_gone_reader_is_noticed();
  urgent_bytes_stay_in_place();
  a_closed_window_holds_and_lets_go();
  told_with_bytes_in_flight();
  an_order_too_late_hits_nobody_else();
  silence_ends();
  one_question_serves_many();
  what_comes_back_is_known();
  totals_hold_until_the_report();
  who_is_near_is_not_paced();
  an_event_too_late_hits_nobody_else();
  if (pipes_max > 1) who_stays_is_tuned(); /* takes a second */
  begin_with(pair_up()); /* still open when the pump stops */
  fill(client);
  uint16_t port = 0;
  struct pump_listening listening = {.fd = listener(&port), .connections_max = 8};
  fcntl(listening.fd, F_SETFL, O_NONBLOCK);
  int number = pump_listen(pump, &listening);
  int unanswered = dial(port, true);
  take_accepted(number);
  pump_stop(pump);
  close(unanswered);
  close(client);
  close(upstream);
  CHECK(open_files() == before);
}

/* ---- stress ---- */

enum { LIVE_MAX = 48 };

static uint64_t dice;
static uint32_t roll(uint32_t sides) {
  dice ^= dice << 13;
  dice ^= dice >> 7;
  dice ^= dice << 17;
  return (uint32_t)(dice >> 20) % sides;
}

/* The byte at a place of a stream, so that every byte can be checked where it arrives. */
static uint8_t byte_at(uint64_t stream, uint64_t place) {
  uint64_t x = (place >> 3) * 0x9e3779b97f4a7c15u + stream * 0xbf58476d1ce4e5b9u;
  x ^= x >> 29;
  return (uint8_t)(x >> (8 * (place & 7)));
}

struct app {
  int fd;
  uint64_t out_stream, in_stream;
  uint64_t to_send, sent, got;
  uint64_t deaf_until; /* reads nothing until then */
  bool said_end, saw_end, dead;
};

struct live {
  bool used, ended, killed;
  bool routed; /* accepted and dialled by the pump; app[1].fd is -1 until that has come */
  uint32_t id;
  uint64_t refused_at; /* closed by a pump that had no memory to say so */
  struct app app[2];
  struct pump_ended report;
};

static struct live lives[LIVE_MAX];
static bool faulty; /* faults.c is at work: any connection may end early */
static uint64_t total_bytes, total_connections, total_kills;

/* Each life that runs along a route has its own listeners, so that no connection is taken for another one. */
struct way {
  uint16_t port, back_port;
  int back, number;
};
static struct way ways[LIVE_MAX];

static void open_ways(void) {
  for (int i = 0; i < LIVE_MAX; i++) {
    struct way *way = &ways[i];
    *way = (struct way){0};
    int front = listener(&way->port);
    way->back = listener(&way->back_port);
    fcntl(front, F_SETFL, O_NONBLOCK);
    fcntl(way->back, F_SETFL, O_NONBLOCK);
    struct pump_listening listening = {.fd = front, .destination = on_loopback(way->back_port), .connections_max = 100};
    way->number = pump_listen(pump, &listening);
    CHECK(way->number == i);
  }
}

static void answer_questions(void) {
  struct pump_accepted asked;
  while (pump_take_accepted(pump, &asked, 1) == 1) {
    struct live *live = &lives[asked.listener];
    struct pump_route route = {
      .upstream = on_loopback(ways[asked.listener].back_port), .idle_ms = 60000, .half_closed_ms = 60000,
      .connect_ms = 5000, .tag = 1, .good_ms = 30};
    if (roll(8) > 0) {
      pump_take_route(pump, asked.id, &route);
      continue;
    }
    reset(pump_release(pump, asked.id)); /* not one for the pump */
    pump_left(pump, (int)asked.listener);
    if (live->used && !live->ended && live->app[1].fd < 0) live->killed = live->ended = true;
    live->report = (struct pump_ended){.end = PUMP_TOLD};
  }
}

/* What the pump has dialled. */
static void meet(struct live *live, struct way *way) {
  int fd = accept4(way->back, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
  if (fd < 0) return;
  int on = 1;
  setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
  live->app[1].fd = fd;
  live->app[1].dead = false;
}

static bool start_routed(struct live *live, uint64_t serial, struct way *way) {
  int fd;
  while ((fd = accept4(way->back, NULL, NULL, SOCK_CLOEXEC)) >= 0) close(fd); /* of the life before */
  *live = (struct live){.used = true, .routed = true};
  fd = dial(way->port, true);
  CHECK(fd >= 0);
  fcntl(fd, F_SETFL, O_NONBLOCK);
  for (int i = 0; i < 2; i++) {
    live->app[i] = (struct app){
      .fd = i == 0 ? fd : -1, .out_stream = serial * 2 + (uint64_t)i, .in_stream = serial * 2 + (uint64_t)!i,
      .to_send = roll(10) == 0 ? roll(8u << 20) : roll(20000),
    };
  }
  live->app[1].dead = true; /* until it is there */
  total_connections++;
  return true;
}

static void start_life(struct live *live, uint64_t serial) {
  if (roll(2) == 0 && start_routed(live, serial, &ways[live - lives])) return;
  struct pump_connection connection = pair_up();
  *live = (struct live){.used = true};
  bool big = roll(4) == 0;
  if (roll(2) == 0) { /* little room: what was read has to wait in the pump */
    int bytes = 16384;
    setsockopt(connection.client, SOL_SOCKET, SO_SNDBUF, &bytes, sizeof bytes);
    setsockopt(connection.upstream, SOL_SOCKET, SO_SNDBUF, &bytes, sizeof bytes);
    setsockopt(client, SOL_SOCKET, SO_RCVBUF, &bytes, sizeof bytes);
    setsockopt(upstream, SOL_SOCKET, SO_RCVBUF, &bytes, sizeof bytes);
  }
  for (int i = 0; i < 2; i++) {
    int fd = i == 0 ? client : upstream;
    fcntl(fd, F_SETFL, O_NONBLOCK);
    live->app[i] = (struct app){
      .fd = fd, .out_stream = serial * 2 + (uint64_t)i, .in_stream = serial * 2 + (uint64_t)!i,
      .to_send = big ? roll(8u << 20) : roll(20000),
    };
  }
  uint8_t head[3000];
  size_t length = live->app[0].to_send < sizeof head ? (size_t)live->app[0].to_send : sizeof head;
  for (size_t i = 0; i < length; i++) head[i] = byte_at(live->app[0].out_stream, i);
  connection.to_upstream = (struct pump_bytes){head, length};
  live->app[0].sent = length;
  connection.idle_ms = 60000;
  connection.half_closed_ms = 60000;
  int64_t added = pump_add(pump, &connection);
  CHECK(added >= 0);
  live->id = (uint32_t)added;
  total_connections++;
}

static void app_lost(struct live *live, struct app *app) {
  CHECK(faulty || live->killed || live->ended || errno == ECONNRESET || errno == EPIPE);
  app->dead = true;
}

static bool app_turn(struct live *live, struct app *app) {
  static uint8_t buffer[300000];
  bool did = false;
  if (app->dead) return false;
  size_t want = 1 + (roll(2) ? roll(sizeof buffer) : roll(500));
  if (app->sent < app->to_send) {
    if (want > app->to_send - app->sent) want = (size_t)(app->to_send - app->sent);
    for (size_t i = 0; i < want; i++) buffer[i] = byte_at(app->out_stream, app->sent + i);
    ssize_t n = send(app->fd, buffer, want, MSG_NOSIGNAL);
    if (n > 0) {
      app->sent += (uint64_t)n;
      did = true;
    } else if (errno != EAGAIN) {
      app_lost(live, app);
      return true;
    }
  } else if (!app->said_end && roll(3) == 0) {
    app->said_end = true;
    shutdown(app->fd, SHUT_WR);
  }
  if (roll(2000) == 0) app->deaf_until = now_ms() + roll(100);
  if (app->saw_end || app->deaf_until > now_ms()) return did;
  ssize_t n = recv(app->fd, buffer, 1 + roll(sizeof buffer), 0);
  if (n > 0) {
    for (ssize_t i = 0; i < n; i++) CHECK(buffer[i] == byte_at(app->in_stream, app->got + (uint64_t)i));
    app->got += (uint64_t)n;
    total_bytes += (uint64_t)n;
    did = true;
  } else if (n == 0) {
    app->saw_end = true;
  } else if (errno != EAGAIN) {
    app_lost(live, app);
  }
  return did;
}

static void kill_somehow(struct live *live) {
  live->killed = true;
  total_kills++;
  struct app *app = &live->app[roll(2)];
  if (app->fd < 0) app = &live->app[0];
  switch (roll(live->routed ? 2 : 3)) {
    case 0:
      reset(app->fd);
      app->fd = -1;
      app->dead = true;
      break;
    case 1:
      close(app->fd);
      app->fd = -1;
      app->dead = true;
      break;
    case 2:
      pump_tell_close(pump, live->id);
      break;
  }
}

static void end_life(struct live *live) {
  struct app *client_app = &live->app[0], *upstream_app = &live->app[1];
  const struct pump_ended *report = &live->report;
  if (report->end == PUMP_CLOSED && !live->killed) {
    CHECK(client_app->sent == client_app->to_send && upstream_app->got == client_app->sent);
    CHECK(upstream_app->sent == upstream_app->to_send && client_app->got == upstream_app->sent);
    CHECK(report->sent == client_app->sent && report->received == upstream_app->sent);
  }
  if (!faulty && !live->killed && report->end != PUMP_CLOSED) fprintf(stderr, "ended %u error %d\n", report->end, report->error);
  CHECK(faulty || live->killed || report->end == PUMP_CLOSED);
  CHECK(report->sent <= client_app->sent && report->sent >= upstream_app->got);
  CHECK(report->received <= upstream_app->sent && report->received >= client_app->got);
  for (int i = 0; i < 2; i++) {
    if (live->app[i].fd >= 0) close(live->app[i].fd);
  }
  live->used = false;
}

static bool all_read(const struct live *live) {
  for (int i = 0; i < 2; i++) {
    if (!live->app[i].dead && !live->app[i].saw_end) return false;
  }
  return true;
}

static void stress(uint64_t ms, uint64_t seed, uint32_t pipes_max) {
  int before = open_files();
  dice = seed * 2654435761u + 1;
  pump = pump_start(pipes_max, on_ended, NULL);
  CHECK(pump != NULL);
  open_ways();
  uint64_t until = now_ms() + ms, serial = 0;
  int live_count = 0;
  while (now_ms() < until || live_count > 0) {
    bool did = false;
    for (int i = 0; i < LIVE_MAX; i++) {
      struct live *live = &lives[i];
      if (!live->used) {
        if (now_ms() >= until) continue;
        start_life(live, ++serial);
        live_count++;
      }
      if (live->routed && live->app[1].fd < 0 && !live->ended) meet(live, &ways[i]);
      for (int side = 0; side < 2; side++) did |= app_turn(live, &live->app[side]);
      if (!live->killed && !live->ended && roll(200) == 0) kill_somehow(live);
      if (faulty && live->routed && !live->ended && all_read(live)) {
        if (live->refused_at == 0) live->refused_at = now_ms();
        if (now_ms() - live->refused_at > 3000) live->ended = true;
      }
      if (live->ended && all_read(live)) {
        end_life(live);
        live_count--;
      }
    }
    answer_questions();
    if (roll(16) == 0) { /* whoever looks does so at any time */
      struct pump_accepted listed[16];
      for (uint32_t from = 0; pump_list(pump, &from, listed, 16) == 16;) {
      }
      struct pump_totals totals = pump_total(pump, (int)roll(LIVE_MAX));
      CHECK(totals.open <= 100);
    }
    struct pump_ended ended[7];
    for (size_t n; (n = pump_take_ended(pump, ended, 7)) > 0;) {
      for (size_t i = 0; i < n; i++) {
        struct live *found = NULL;
        for (int j = 0; j < LIVE_MAX; j++) {
          if (ended[i].accepted.tag != 0 && (uint32_t)j != ended[i].accepted.listener) continue;
          if (ended[i].accepted.tag == 0 && (lives[j].routed || lives[j].id != ended[i].id)) continue;
          if (lives[j].used && !lives[j].ended && lives[j].routed == (ended[i].accepted.tag != 0)) found = &lives[j];
        }
        if (faulty && found == NULL) continue;
        CHECK(found != NULL); /* reported once */
        found->ended = true;
        found->report = ended[i];
      }
      did = true;
    }
    if (!did) usleep(200);
  }
  pump_stop(pump);
  for (int i = 0; i < LIVE_MAX; i++) close(ways[i].back);
  CHECK(open_files() == before);
  printf("stress: %llu connections, %llu killed, %llu MiB checked, pipes %u\n", (unsigned long long)total_connections,
         (unsigned long long)total_kills, (unsigned long long)(total_bytes >> 20), pipes_max);
}

/* ---- start ---- */

static void start(void) {
  int refused = 0;
  for (int i = 0; i < 6; i++) {
    int before = open_files();
    errno = 0;
    pump = pump_start(4, on_ended, NULL);
    CHECK(pump != NULL || errno != 0);
    if (pump == NULL) refused++;
    else pump_stop(pump);
    CHECK(open_files() == before);
  }
  printf("start: %d refused\n", refused);
}

/* While faults.c makes the fifth epoll_ctl fail, which is the one that would watch the second listener. */
static void deaf(void) {
  pump = pump_start(4, on_ended, NULL);
  CHECK(pump != NULL);
  for (int i = 0; i < 2; i++) {
    uint16_t port = 0;
    struct pump_listening listening = {.fd = listener(&port), .connections_max = 8};
    fcntl(listening.fd, F_SETFL, O_NONBLOCK);
    CHECK(pump_listen(pump, &listening) == i);
    client = dial(port, true);
    close(pump_release(pump, take_accepted(i).id));
    close(client);
  }
  pump_stop(pump);
  printf("deaf: heard all the same\n");
}

/* While faults.c leaves no memory for entries: who calls is turned away, and nothing is left behind. */
static void no_memory(void) {
  uint16_t port = 0;
  int before = open_files(), front = listener(&port);
  fcntl(front, F_SETFL, O_NONBLOCK);
  pump = pump_start(4, on_ended, NULL);
  CHECK(pump != NULL);
  struct pump_listening listening = {.fd = front, .destination = on_loopback(port), .connections_max = 8};
  CHECK(pump_listen(pump, &listening) == 0);
  for (int i = 0; i < 3; i++) {
    client = dial(port, true);
    reads_reset(client);
    close(client);
  }
  pump_stop(pump);
  CHECK(open_files() == before);
  printf("no memory: 3 turned away\n");
}

/* ---- proxy ---- */

static void proxy(uint16_t port, uint16_t to_port, uint32_t pipes_max) {
  int listening = listener(&port);
  pump = pump_start(pipes_max, on_ended, NULL);
  CHECK(pump != NULL);
  struct pollfd wait[2] = {{.fd = listening, .events = POLLIN}, {.fd = reports, .events = POLLIN}};
  for (;;) {
    poll(wait, 2, -1);
    if (wait[1].revents) {
      uint64_t count;
      if (read(reports, &count, sizeof count) < 0) continue;
      struct pump_ended ended[64];
      while (pump_take_ended(pump, ended, 64) > 0) {
      }
    }
    if (wait[0].revents) {
      int accepted = accept4(listening, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
      int dialled = accepted < 0 ? -1 : dial(to_port, false);
      int on = 1;
      setsockopt(accepted, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
      struct pump_connection connection = {.client = accepted, .upstream = dialled, .idle_ms = 600000};
      if (dialled >= 0) pump_add(pump, &connection);
      else if (accepted >= 0) close(accepted);
    }
  }
}

int main(int argc, char **argv) {
  reports = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  CHECK(reports >= 0 && argc > 1);
  if (strcmp(argv[1], "cases") == 0) {
    cases(64);
    cases(1);
    cases(0); /* no pipe to be had: everything is copied */
  } else if (argc == 4 && (strcmp(argv[1], "stress") == 0 || strcmp(argv[1], "faults") == 0)) {
    faulty = argv[1][0] == 'f';
    uint64_t ms = (uint64_t)(atof(argv[2]) * 1000), seed = strtoull(argv[3], NULL, 10);
    stress(ms * 3 / 4, seed, 16);
    stress(ms / 4, seed + 1, 0); /* no pipe to be had: everything is copied, and held where it must wait */
  } else if (strcmp(argv[1], "start") == 0) {
    start();
  } else if (strcmp(argv[1], "memory") == 0) {
    no_memory();
  } else if (strcmp(argv[1], "deaf") == 0) {
    deaf();
  } else if (strcmp(argv[1], "proxy") == 0 && argc == 4) {
    proxy((uint16_t)atoi(argv[2]), (uint16_t)atoi(argv[3]), 256);
  } else {
    fprintf(stderr, "usage: harness cases | stress|faults SECONDS SEED | start | memory | deaf | proxy PORT TO_PORT\n");
    return 2;
  }
  return 0;
}
