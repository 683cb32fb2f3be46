/*
 * Both ends of the TCP benchmark: a server, and clients that print what they measured as one line of JSON.
 *
 *   load server PORT
 *   load bulk PORT down|up CONNECTIONS BYTES       bytes in all, spread over the connections
 *   load ping PORT CONNECTIONS SIZE SECONDS        one message in flight on each connection
 *   load short PORT CONCURRENCY COUNT SIZE         connect, one message there and back, close
 *   load idle PORT CONNECTIONS [http1|http2]       opens them, each with one message or request answered, says so, and
 *                                                  holds them until its standard input ends
 *
 * The first byte of a connection says what it wants: 'D' and 8 bytes of length: send me that much; 'U' and a length:
 * I send that much, answer with one byte at the end; 'E': echo everything.
 * In C, and reading without copying, so that the load costs little beside the proxies on the same machine.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { EVENTS_MAX = 256, BLOCK = 256 * 1024, ECHO_MAX = 16 * 1024 };

static char block[BLOCK];
static int epoll;

struct connection {
  int fd;
  char mode; /* 0 until known */
  uint8_t head[9];
  size_t head_bytes;
  uint64_t left, began;
  bool connecting;
};

static void die(const char *what) {
  perror(what);
  exit(1);
}

static uint64_t now_ns(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static void watch(int operation, struct connection *connection, uint32_t events) {
  struct epoll_event event = {.events = events, .data.ptr = connection};
  if (epoll_ctl(epoll, operation, connection->fd, &event) != 0) die("epoll_ctl");
}

static struct sockaddr_in loopback(const char *port) {
  return (struct sockaddr_in){
    .sin_family = AF_INET, .sin_port = htons((uint16_t)atoi(port)), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
}

static void forget(struct connection *connection) {
  close(connection->fd);
  free(connection);
}

/* ---- the server ---- */

static bool send_left(struct connection *connection) {
  while (connection->left > 0) {
    size_t want = connection->left < BLOCK ? (size_t)connection->left : BLOCK;
    ssize_t n = send(connection->fd, block, want, MSG_NOSIGNAL | MSG_DONTWAIT);
    if (n < 0) {
      if (errno != EAGAIN) return false;
      watch(EPOLL_CTL_MOD, connection, EPOLLOUT);
      return true;
    }
    connection->left -= (uint64_t)n;
  }
  return false; /* all sent: close */
}

static bool discard(struct connection *connection) {
  for (;;) {
    ssize_t n = recv(connection->fd, block, BLOCK * 4, MSG_TRUNC | MSG_DONTWAIT);
    if (n < 0) return errno == EAGAIN;
    if (n == 0) return false;
    connection->left = connection->left > (uint64_t)n ? connection->left - (uint64_t)n : 0;
    if (connection->left == 0) return send(connection->fd, "k", 1, MSG_NOSIGNAL) == 1;
    if (n < BLOCK) return true;
  }
}

static bool echo(struct connection *connection) {
  char data[ECHO_MAX];
  ssize_t n = recv(connection->fd, data, sizeof data, MSG_DONTWAIT);
  if (n < 0) return errno == EAGAIN;
  if (n == 0) return false;
  /* One message is in flight at a time and they are small: it always fits. */
  return send(connection->fd, data, (size_t)n, MSG_NOSIGNAL) == n;
}

static bool serve(struct connection *connection) {
  if (connection->mode == 0) {
    char first;
    ssize_t n = recv(connection->fd, &first, 1, MSG_PEEK | MSG_DONTWAIT);
    if (n <= 0) return n < 0 && errno == EAGAIN;
    if (first != 'E') {
      n = recv(connection->fd, connection->head + connection->head_bytes, 9 - connection->head_bytes, MSG_DONTWAIT);
      if (n <= 0) return n < 0 && errno == EAGAIN;
      connection->head_bytes += (size_t)n;
      if (connection->head_bytes < 9) return true;
      memcpy(&connection->left, connection->head + 1, 8);
    }
    connection->mode = first;
  }
  if (connection->mode == 'E') return echo(connection);
  return connection->mode == 'D' ? send_left(connection) : discard(connection);
}

static void server(const char *port) {
  struct sockaddr_in address = loopback(port);
  int listening = socket(AF_INET, SOCK_STREAM, 0), on = 1;
  setsockopt(listening, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
  if (bind(listening, (struct sockaddr *)&address, sizeof address) != 0 || listen(listening, 4096) != 0) die("listen");
  fcntl(listening, F_SETFL, O_NONBLOCK);
  struct epoll_event events[EVENTS_MAX], incoming = {.events = EPOLLIN};
  epoll_ctl(epoll, EPOLL_CTL_ADD, listening, &incoming);
  puts("ready");
  fflush(stdout);
  for (;;) {
    int count = epoll_wait(epoll, events, EVENTS_MAX, -1);
    for (int i = 0; i < count; i++) {
      struct connection *connection = events[i].data.ptr;
      if (connection != NULL) {
        if (!serve(connection)) forget(connection);
        continue;
      }
      for (int fd; (fd = accept4(listening, NULL, NULL, SOCK_NONBLOCK)) >= 0;) {
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
        connection = calloc(1, sizeof *connection);
        connection->fd = fd;
        watch(EPOLL_CTL_ADD, connection, EPOLLIN);
      }
    }
  }
}

/* ---- clients ---- */

static struct connection *dial(const char *port) {
  struct sockaddr_in address = loopback(port);
  struct connection *connection = calloc(1, sizeof *connection);
  connection->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
  int on = 1;
  setsockopt(connection->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
  if (connect(connection->fd, (struct sockaddr *)&address, sizeof address) != 0 && errno != EINPROGRESS) die("connect");
  connection->began = now_ns();
  connection->connecting = true;
  watch(EPOLL_CTL_ADD, connection, EPOLLOUT);
  return connection;
}

static void bulk(const char *port, char mode, int connections, uint64_t bytes) {
  uint64_t began = now_ns(), each = bytes / (uint64_t)connections;
  for (int i = 0; i < connections; i++) dial(port);
  struct epoll_event events[EVENTS_MAX];
  for (int open = connections; open > 0;) {
    int count = epoll_wait(epoll, events, EVENTS_MAX, 30000);
    if (count <= 0) die("bulk stalled");
    for (int i = 0; i < count; i++) {
      struct connection *connection = events[i].data.ptr;
      if (connection->connecting) {
        connection->connecting = false;
        connection->head[0] = (uint8_t)mode;
        memcpy(connection->head + 1, &each, 8);
        connection->left = each;
        if (send(connection->fd, connection->head, 9, MSG_NOSIGNAL) != 9) die("send");
        if (mode == 'D') watch(EPOLL_CTL_MOD, connection, EPOLLIN);
      }
      if (mode == 'U' && connection->left > 0) {
        if (!send_left(connection)) {
          if (connection->left > 0) die("upload");
          watch(EPOLL_CTL_MOD, connection, EPOLLIN);
        }
        continue;
      }
      ssize_t n = recv(connection->fd, block, BLOCK * 4, MSG_TRUNC | MSG_DONTWAIT);
      if (n < 0 && errno == EAGAIN) continue;
      if (n < 0) die("recv");
      if (mode == 'D') connection->left -= (uint64_t)n;
      if (n > 0 && mode == 'D') continue;
      if (connection->left != 0) die("bytes are missing");
      forget(connection);
      open--;
    }
  }
  printf("{\"bytes\":%llu,\"seconds\":%.6f}\n", (unsigned long long)bytes, (double)(now_ns() - began) / 1e9);
}

/* Latencies in buckets 1/16 of an octave wide, from 1 microsecond. */
static uint64_t buckets[64 * 16];

static void note_latency(uint64_t ns) {
  int octave = 63 - __builtin_clzll(ns | 1024);
  buckets[octave * 16 + (int)((ns >> (octave - 4)) & 15)]++;
}

static double latency_us(double part) {
  uint64_t total = 0, seen = 0;
  for (int i = 0; i < 64 * 16; i++) total += buckets[i];
  for (int i = 0; i < 64 * 16; i++) {
    seen += buckets[i];
    if (seen > 0 && (double)seen >= part * (double)total) return (double)((16ull + (uint64_t)(i % 16)) << (i / 16 - 4)) / 1e3;
  }
  return 0;
}

static void print_messages(const char *what, uint64_t count, uint64_t began) {
  printf("{\"%s\":%llu,\"seconds\":%.6f,\"p50\":%.1f,\"p99\":%.1f}\n", what, (unsigned long long)count,
         (double)(now_ns() - began) / 1e9, latency_us(0.5), latency_us(0.99));
}

static void say(struct connection *connection, size_t size) {
  connection->left = size;
  connection->connecting = false;
  if (send(connection->fd, block, size, MSG_NOSIGNAL) != (ssize_t)size) die("send");
}

static void ping(const char *port, int connections, size_t size, double seconds) {
  for (int i = 0; i < connections; i++) dial(port);
  uint64_t began = now_ns(), until = began + (uint64_t)(seconds * 1e9), messages = 0;
  struct epoll_event events[EVENTS_MAX];
  for (int open = connections; open > 0;) {
    int count = epoll_wait(epoll, events, EVENTS_MAX, 30000);
    if (count <= 0) die("ping stalled");
    for (int i = 0; i < count; i++) {
      struct connection *connection = events[i].data.ptr;
      if (connection->connecting) {
        watch(EPOLL_CTL_MOD, connection, EPOLLIN);
      } else {
        ssize_t n = recv(connection->fd, block, BLOCK, MSG_TRUNC | MSG_DONTWAIT);
        if (n < 0 && errno == EAGAIN) continue;
        if (n <= 0) die("recv");
        connection->left -= (uint64_t)n;
        if (connection->left > 0) continue;
        uint64_t now = now_ns();
        note_latency(now - connection->began);
        messages++;
        if (now >= until) {
          forget(connection);
          open--;
          continue;
        }
      }
      connection->began = now_ns();
      say(connection, size);
    }
  }
  print_messages("messages", messages, began);
}

static void short_lived(const char *port, int concurrency, uint64_t total, size_t size) {
  uint64_t began = now_ns(), begun = 0, ended = 0;
  for (; begun < (uint64_t)concurrency && begun < total; begun++) dial(port);
  struct epoll_event events[EVENTS_MAX];
  while (ended < total) {
    int count = epoll_wait(epoll, events, EVENTS_MAX, 30000);
    if (count <= 0) die("short stalled");
    for (int i = 0; i < count; i++) {
      struct connection *connection = events[i].data.ptr;
      if (connection->connecting) {
        watch(EPOLL_CTL_MOD, connection, EPOLLIN);
        say(connection, size);
        continue;
      }
      ssize_t n = recv(connection->fd, block, BLOCK, MSG_TRUNC | MSG_DONTWAIT);
      if (n < 0 && errno == EAGAIN) continue;
      if (n <= 0) die("recv");
      connection->left -= (uint64_t)n;
      if (connection->left > 0) continue;
      note_latency(now_ns() - connection->began);
      forget(connection);
      ended++;
      if (begun < total) {
        begun++;
        dial(port);
      }
    }
  }
  print_messages("connections", total, began);
}

/* ---- clients that wait ---- */

static const char http1_request[] = "GET /0 HTTP/1.1\r\nHost: bench\r\n\r\n";
static const char http2_request[] =
  "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
  "\0\0\0\x04\0\0\0\0\0"                /* SETTINGS */
  "\0\0\x0d\x01\x05\0\0\0\x01"          /* HEADERS, all and the end, of stream 1 */
  "\x82\x86\x04\x02/0\x41\x05" "bench";
static const char http2_acknowledged[] = "\0\0\0\x04\x01\0\0\0\0";

/* Whether the answer is whole with these bytes: of HTTP/2, once a frame of a stream says that it is the last. */
static bool is_answered(struct connection *connection, bool is_http2, ssize_t bytes) {
  if (!is_http2) return true; /* no body, and a head that fits a segment */
  bool is_last = false;
  for (ssize_t i = 0; i < bytes; i++) {
    if (connection->left > 0) {
      connection->left--;
    } else {
      connection->head[connection->head_bytes++] = (uint8_t)block[i];
      if (connection->head_bytes < sizeof connection->head) continue;
      connection->head_bytes = 0;
      const uint8_t *head = connection->head;
      connection->left = (uint64_t)head[0] << 16 | (uint64_t)head[1] << 8 | head[2];
      if (head[3] == 3 || head[3] == 7) { /* RST_STREAM, GOAWAY */
        fputs("the server refuses HTTP/2 requests\n", stderr);
        exit(1);
      }
      if (head[3] <= 1 && (head[4] & 1) != 0) connection->mode = 'l'; /* DATA or HEADERS, END_STREAM */
    }
    if (connection->mode == 'l' && connection->left == 0) is_last = true;
  }
  return is_last;
}

/* Reads all that is there, since events come for what is new only: false when the other side has gone. */
static bool heard(struct connection *connection, bool is_http2, int *answered) {
  for (;;) {
    ssize_t n = recv(connection->fd, block, BLOCK, MSG_DONTWAIT);
    if (n < 0 && errno == EAGAIN) return true;
    if (n <= 0) return false;
    if (connection->mode == 'i' || !is_answered(connection, is_http2, n)) continue;
    connection->mode = 'i';
    (*answered)++;
    if (is_http2) send(connection->fd, http2_acknowledged, sizeof http2_acknowledged - 1, MSG_NOSIGNAL);
  }
}

static void idle(const char *port, int connections, const char *protocol) {
  struct epoll_event events[EVENTS_MAX];
  bool is_http2 = strcmp(protocol, "http2") == 0;
  const char *request = is_http2 ? http2_request : strcmp(protocol, "http1") == 0 ? http1_request : "E";
  size_t length = is_http2 ? sizeof http2_request - 1 : strlen(request);
  int open = 0;
  for (int begun = 0; open < connections;) {
    while (begun < connections && begun - open < 200) {
      dial(port);
      begun++;
    }
    int count = epoll_wait(epoll, events, EVENTS_MAX, 30000);
    if (count <= 0) die("idle stalled");
    for (int i = 0; i < count; i++) {
      struct connection *connection = events[i].data.ptr;
      if (connection->connecting) {
        connection->connecting = false;
        watch(EPOLL_CTL_MOD, connection, EPOLLIN | EPOLLET);
        if (send(connection->fd, request, length, MSG_NOSIGNAL) != (ssize_t)length) die("send");
      } else if (!heard(connection, is_http2, &open)) die("a connection was closed before its answer");
    }
  }
  puts("ready");
  fflush(stdout);
  if (read(0, block, 1) < 0) die("read");
  int closed = 0;
  for (int count; (count = epoll_wait(epoll, events, EVENTS_MAX, 0)) > 0;)
    for (int i = 0; i < count; i++)
      if (!heard(events[i].data.ptr, is_http2, &open)) closed++;
  if (closed == 0) return;
  fprintf(stderr, "%d of %d connections were closed while they waited\n", closed, connections);
  exit(1);
}

int main(int argc, char **argv) {
  memset(block, 'E', sizeof block);
  epoll = epoll_create1(EPOLL_CLOEXEC);
  const char *what = argc > 2 ? argv[1] : "";
  if (strcmp(what, "server") == 0) server(argv[2]);
  else if (strcmp(what, "bulk") == 0 && argc == 6) bulk(argv[2], argv[3][0] == 'd' ? 'D' : 'U', atoi(argv[4]), strtoull(argv[5], NULL, 10));
  else if (strcmp(what, "ping") == 0 && argc == 6) ping(argv[2], atoi(argv[3]), (size_t)atoi(argv[4]), atof(argv[5]));
  else if (strcmp(what, "short") == 0 && argc == 6) short_lived(argv[2], atoi(argv[3]), strtoull(argv[4], NULL, 10), (size_t)atoi(argv[5]));
  else if (strcmp(what, "idle") == 0 && argc >= 4) idle(argv[2], atoi(argv[3]), argc > 4 ? argv[4] : "");
  else {
    fprintf(stderr, "usage: load server|bulk|ping|short|idle PORT ...; see the top of load.c\n");
    return 2;
  }
  return 0;
}
