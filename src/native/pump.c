/*
 * The pump: one thread, one epoll, and splice(2) for whoever sends much.
 *
 * How a byte travels: recv and send through a scratch buffer while messages are small, which costs two system calls and
 * no pipe; once a recv fills the scratch buffer, splice through a borrowed pipe, which copies nothing. What was read
 * and not yet taken by the other side stays in the pipe, or in `held`; nothing more is read before it has left, so a
 * connection holds at most one pipe or one scratch buffer's worth in each direction.
 *
 * Who owns what: a connection's descriptors, pipes and held bytes belong to the pump's thread from the moment it takes
 * the entry from `added` until it puts it on `ended`. The three lists and the free list are under `lock`; `moved` and
 * the counts are atomic. Everything else in an entry is the pump's thread's alone.
 *
 * Events are hints and nothing more: they set `readable` and `writable`, and only what recv, send and splice answer
 * decides. A stale event can thus cost a system call but never do harm.
 */
#define _GNU_SOURCE
#include "pump.h"
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/sockios.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { ORIGINAL_DST = 80 }; /* SO_ORIGINAL_DST and IP6T_SO_ORIGINAL_DST, from headers that clash with netinet/in.h. */

enum {
  SCRATCH_BYTES = 64 * 1024,      /* a full one is what tells bulk from messages */
  BULK_BYTES_MIN = 16 * 1024,     /* a splice that finds less goes back to recv */
  PIPE_BYTES = 1024 * 1024,       /* the most an unprivileged process may ask for (fs.pipe-max-size) */
  TURN_BYTES_MAX = 1024 * 1024,   /* what one direction may move before the others have their turn */
  SPARE_PIPES_MAX = 32,           /* empty pipes kept for the next who needs one */
  LINGER_MS = 200,                /* as in net/relay.ts: for the last bytes to leave before a reset */
  EVENTS_MAX = 256,
  CHUNK_ENTRIES = 256,
  ROUTES_MAX = 1024,              /* a power of two; others are asked about again */
  ROUTE_PROBES_MAX = 8,
  ACCEPTS_MAX = 64,               /* in one turn, before others have theirs */
  NO_DESCRIPTOR_PAUSE_MS = 50,
  CHUNKS_MAX = 4096,              /* a million connections, more than a process has descriptors for */
};

#define WAKE UINT64_MAX
#define LISTENER (UINT64_C(1) << 62) /* plus its number */

struct held {
  size_t offset, length;
  uint8_t data[];
};

struct pipe {
  int out, in; /* read end, write end, as pipe2 gives them */
};

/* One direction: from entry.fd[i] to entry.fd[!i]. */
struct flow {
  _Atomic uint64_t moved;
  struct held *held;
  struct pipe pipe;     /* out is -1 while none is borrowed */
  uint32_t in_pipe;     /* bytes */
  bool readable, writable;
  bool ended;           /* the sender said goodbye */
  bool passed;          /* and the receiver was told */
  bool hung;            /* the sender's end, or its error, is in the queue: recv until it comes */
  bool broken;          /* an error was seen on the sender's socket */
  bool bulk;
  bool copies;          /* never splice: it was refused, or there is urgent data, at whose mark splice stops for ever */
};

/* What is asked about once, and then known for a while. */
struct route_entry {
  struct pump_route route;
  uint32_t listener;
  uint64_t good_until; /* 0: unused */
  struct pump_address peer, destination;
};

struct listener {
  int fd; /* -1: unused */
  struct pump_listening about;
  _Atomic uint32_t open;
  bool stop;
};

enum state { MOVING, WAITING, CONNECTING }; /* WAITING: for the caller's answer, in the caller's hands */

struct entry {
  uint32_t id;
  enum state state;
  int listener; /* -1: from pump_add */
  struct pump_address peer, destination, upstream, local; /* local: where it dialled from, if that was asked */
  bool is_own; /* one that the pump opened itself, and that was redirected to us */
  uint64_t accepted_at, ended_at;
  uint32_t tag;
  _Atomic bool listed; /* runs along a route; what pump_list reads is written before this */
  int fd[2]; /* client, upstream */
  struct flow flow[2];
  uint64_t idle_ms, half_closed_ms, last_byte_at, deadline; /* deadline: the key in the heap; never too late */
  uint32_t heap_at;
  bool open, in_heap, losing, lingering; /* losing: one side is lost; lingering: and the other must be told, soon */
  uint8_t end;
  int error;
  struct entry *ready_next, *ready_previous; /* the ring of those with something to do; itself when not in it */
  struct entry *next_added, *next_ended; /* next_ended also links the unused */
  struct entry *next_told, **told_by;    /* told_by: what points to this one; NULL when it is not on the list */
};

struct chunk {
  struct entry entries[CHUNK_ENTRIES];
  struct entry *heap[CHUNK_ENTRIES]; /* the heap never holds more than there are entries */
};

struct pump {
  pthread_t thread;
  int epoll, wake;
  void (*on_ended)(void *);
  void *context;

  pthread_mutex_t lock;
  struct entry *added, **added_tail, *told, *ended, **ended_tail, *unused;
  struct entry *accepted, **accepted_tail; /* linked by next_added */
  bool stopping, listening_changed;
  struct pump_dial_options dial_options;
  int listener_count;
  struct listener listeners[PUMP_LISTENERS_MAX];
  struct route_entry routes[ROUTES_MAX];
  struct chunk *_Atomic chunks[CHUNKS_MAX];
  _Atomic uint32_t chunk_count;

  /* From here on the pump's thread's alone. */
  uint64_t now;
  uint64_t accept_again_at; /* when descriptors ran out; 0: accepting */
  struct entry ready; /* only its ring */
  uint32_t heap_count;
  struct pipe spare[SPARE_PIPES_MAX];
  uint32_t spare_count, pipes_open, pipes_max;
  bool asks_kernel;             /* some listener takes what is redirected, so that our own connections could come back */
  uint32_t dialled[UINT16_MAX + 1]; /* by local port: the id, plus 1, of the connection that dialled last from it */
  uint8_t scratch[SCRATCH_BYTES];
};

static uint64_t clock_ms(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

static struct entry *entry_of(const struct pump *pump, uint32_t id) {
  return &atomic_load_explicit(&pump->chunks[id / CHUNK_ENTRIES], memory_order_acquire)->entries[id % CHUNK_ENTRIES];
}

/* ---- deadlines: a binary heap, with keys that may be too early and are then put right when they come up ---- */

static struct entry **heap_place(struct pump *pump, uint32_t at) {
  return &atomic_load_explicit(&pump->chunks[at / CHUNK_ENTRIES], memory_order_relaxed)->heap[at % CHUNK_ENTRIES];
}

static void heap_put(struct pump *pump, uint32_t at, struct entry *entry) {
  *heap_place(pump, at) = entry;
  entry->heap_at = at;
}

static void heap_settle(struct pump *pump, struct entry *entry) {
  uint32_t at = entry->heap_at;
  while (at > 0) {
    struct entry *above = *heap_place(pump, (at - 1) / 2);
    if (above->deadline <= entry->deadline) break;
    heap_put(pump, at, above);
    at = (at - 1) / 2;
  }
  for (;;) {
    uint32_t below = 2 * at + 1;
    if (below >= pump->heap_count) break;
    if (below + 1 < pump->heap_count &&
        (*heap_place(pump, below + 1))->deadline < (*heap_place(pump, below))->deadline) {
      below++;
    }
    if ((*heap_place(pump, below))->deadline >= entry->deadline) break;
    heap_put(pump, at, *heap_place(pump, below));
    at = below;
  }
  heap_put(pump, at, entry);
}

static void heap_remove(struct pump *pump, struct entry *entry) {
  if (!entry->in_heap) return;
  entry->in_heap = false;
  struct entry *last = *heap_place(pump, --pump->heap_count);
  if (last == entry) return;
  last->heap_at = entry->heap_at;
  heap_settle(pump, last);
}

static void set_deadline(struct pump *pump, struct entry *entry, uint64_t deadline) {
  if (deadline == UINT64_MAX) return heap_remove(pump, entry);
  entry->deadline = deadline;
  if (!entry->in_heap) {
    entry->in_heap = true;
    entry->heap_at = pump->heap_count++;
  }
  heap_settle(pump, entry);
}

static bool half_closed(const struct entry *entry) { return entry->flow[0].ended || entry->flow[1].ended; }

/* When the connection is over if nothing more happens: as in net/relay.ts, the shorter one once one side has ended. */
static uint64_t deadline_of(const struct entry *entry) {
  uint64_t idle = entry->idle_ms != 0 ? entry->idle_ms : UINT64_MAX;
  uint64_t half = half_closed(entry) && entry->half_closed_ms != 0 ? entry->half_closed_ms : UINT64_MAX;
  uint64_t limit = half < idle ? half : idle;
  return limit == UINT64_MAX ? UINT64_MAX : entry->last_byte_at + limit;
}

/* ---- pipes ---- */

static void close_pipe(struct pump *pump, struct pipe pipe) {
  close(pipe.in);
  close(pipe.out);
  pump->pipes_open--;
}

static bool borrow_pipe(struct pump *pump, struct flow *flow) {
  if (pump->spare_count > 0) {
    flow->pipe = pump->spare[--pump->spare_count];
    return true;
  }
  int ends[2];
  if (pump->pipes_open >= pump->pipes_max || pipe2(ends, O_NONBLOCK | O_CLOEXEC) != 0) return false;
  /* Refused once the user's pipes hold fs.pipe-user-pages-soft; a small pipe is good too. */
  fcntl(ends[1], F_SETPIPE_SZ, PIPE_BYTES);
  pump->pipes_open++;
  flow->pipe = (struct pipe){.out = ends[0], .in = ends[1]};
  return true;
}

static void return_pipe(struct pump *pump, struct flow *flow) {
  if (flow->pipe.out < 0) return;
  /* One that still holds bytes would give them to somebody else. */
  if (flow->in_pipe == 0 && pump->spare_count < SPARE_PIPES_MAX) pump->spare[pump->spare_count++] = flow->pipe;
  else close_pipe(pump, flow->pipe);
  flow->pipe.out = -1;
  flow->in_pipe = 0;
}

/* ---- moving bytes ---- */

enum step {
  STEP_ON,        /* done with this step, take the next */
  STEP_WAIT,      /* an event must come first */
  STEP_FROM_LOST, /* errno says why */
  STEP_TO_LOST,
  STEP_FAILED,
};

static bool would_block(int error) { return error == EAGAIN || error == EWOULDBLOCK || error == EINTR; }

/* What a failed write means. */
static enum step not_written(struct flow *flow) {
  if (!would_block(errno)) return STEP_TO_LOST;
  /* An interrupted one (there are no signals here, but a tracer can do it) is tried again by the caller. */
  if (errno != EINTR) flow->writable = false;
  return flow->writable ? STEP_ON : STEP_WAIT;
}

static enum step not_read(struct flow *flow) {
  if (!would_block(errno)) return STEP_FROM_LOST;
  if (errno != EINTR) flow->readable = false;
  return flow->readable ? STEP_ON : STEP_WAIT;
}

/* Writes what was read before. STEP_ON: nothing is left, or try again. */
static enum step flush(struct flow *flow, int to) {
  while (flow->held != NULL) {
    if (!flow->writable) return STEP_WAIT;
    struct held *held = flow->held;
    ssize_t n = send(to, held->data + held->offset, held->length - held->offset, MSG_NOSIGNAL | MSG_DONTWAIT);
    if (n < 0) {
      enum step step = not_written(flow);
      if (step != STEP_ON) return step;
      continue;
    }
    held->offset += (size_t)n;
    if (held->offset == held->length) {
      free(held);
      flow->held = NULL;
    }
  }
  while (flow->in_pipe > 0) {
    if (!flow->writable) return STEP_WAIT;
    /* A socket that was reset raises SIGPIPE here, which this thread blocks. */
    ssize_t n = splice(flow->pipe.out, NULL, to, NULL, flow->in_pipe, SPLICE_F_MOVE | SPLICE_F_NONBLOCK);
    if (n <= 0) {
      if (n == 0) errno = EPIPE; /* cannot be: the pipe holds bytes */
      enum step step = not_written(flow);
      if (step != STEP_ON) return step;
      continue;
    }
    flow->in_pipe -= (uint32_t)n;
  }
  return STEP_ON;
}

static void count(struct pump *pump, struct entry *entry, struct flow *flow, size_t bytes) {
  uint64_t moved = atomic_load_explicit(&flow->moved, memory_order_relaxed);
  atomic_store_explicit(&flow->moved, moved + bytes, memory_order_relaxed);
  entry->last_byte_at = pump->now;
}

static void sender_ended(struct pump *pump, struct entry *entry, struct flow *flow) {
  flow->ended = true;
  flow->bulk = false;
  entry->last_byte_at = pump->now;
  set_deadline(pump, entry, deadline_of(entry)); /* it may have come nearer */
}

/* Reads into the pipe. What it finds, flush() writes. */
static enum step fill_pipe(struct pump *pump, struct entry *entry, struct flow *flow, int from) {
  ssize_t n = splice(from, NULL, flow->pipe.in, NULL, PIPE_BYTES, SPLICE_F_MOVE | SPLICE_F_NONBLOCK);
  if (n > 0) {
    flow->in_pipe = (uint32_t)n;
    flow->bulk = n >= BULK_BYTES_MIN;
    count(pump, entry, flow, (size_t)n);
    return STEP_ON;
  }
  if (n == 0) {
    sender_ended(pump, entry, flow);
    return STEP_ON;
  }
  if (errno == EINVAL || errno == ENOSYS || errno == EPERM) { /* not for this socket, or not in this sandbox */
    flow->bulk = false;
    flow->copies = true;
    return STEP_ON;
  }
  return not_read(flow);
}

static struct held *hold(const void *data, size_t length) {
  struct held *held = malloc(sizeof *held + length);
  if (held == NULL) return NULL;
  held->offset = 0;
  held->length = length;
  memcpy(held->data, data, length);
  return held;
}

/* Reads into the scratch buffer and writes from it; what the receiver does not take is held. */
static enum step copy(struct pump *pump, struct entry *entry, struct flow *flow, int from, int to) {
  ssize_t n = recv(from, pump->scratch, SCRATCH_BYTES, MSG_DONTWAIT);
  if (n < 0) return not_read(flow);
  if (n == 0) {
    sender_ended(pump, entry, flow);
    return STEP_ON;
  }
  count(pump, entry, flow, (size_t)n);
  size_t length = (size_t)n, offset = 0;
  flow->bulk = length == SCRATCH_BYTES && !flow->copies;
  /* A short read has emptied the queue: what comes next brings an event. Saves every message a third system call. */
  if (length < SCRATCH_BYTES && !flow->hung && !flow->copies) flow->readable = false;
  while (offset < length) {
    if (!flow->writable) {
      flow->held = hold(pump->scratch + offset, length - offset);
      return flow->held != NULL ? STEP_WAIT : STEP_FAILED;
    }
    n = send(to, pump->scratch + offset, length - offset, MSG_NOSIGNAL | MSG_DONTWAIT);
    if (n >= 0) offset += (size_t)n;
    else if (not_written(flow) == STEP_TO_LOST) return STEP_TO_LOST;
  }
  return STEP_ON;
}

/* One direction, until it must wait or has had its turn (then STEP_ON). */
static enum step move(struct pump *pump, struct entry *entry, int i, size_t turn_bytes) {
  struct flow *flow = &entry->flow[i];
  int from = entry->fd[i], to = entry->fd[!i];
  uint64_t until = atomic_load_explicit(&flow->moved, memory_order_relaxed) + turn_bytes;
  for (;;) {
    enum step step = flush(flow, to);
    if (step != STEP_ON) return step;
    if (flow->passed) return STEP_WAIT;
    if (flow->ended) {
      if (entry->losing) return STEP_WAIT; /* an end here would make a reset look like a goodbye */
      flow->passed = true;
      return_pipe(pump, flow);
      if (entry->flow[!i].passed) return STEP_WAIT; /* the close that comes now says it */
      return shutdown(to, SHUT_WR) == 0 || errno == ENOTCONN ? STEP_WAIT : STEP_TO_LOST;
    }
    if (!flow->bulk || !flow->readable) return_pipe(pump, flow);
    if (!flow->readable) return STEP_WAIT;
    if (atomic_load_explicit(&flow->moved, memory_order_relaxed) >= until) return STEP_ON;
    bool spliced = flow->bulk && (flow->pipe.out >= 0 || borrow_pipe(pump, flow));
    step = spliced ? fill_pipe(pump, entry, flow, from) : copy(pump, entry, flow, from, to);
    if (step != STEP_ON && step != STEP_WAIT) return step;
  }
}

/* ---- the ring of those with something to do ---- */

static void make_ready(struct pump *pump, struct entry *entry) {
  if (entry->ready_next != entry) return;
  entry->ready_next = &pump->ready;
  entry->ready_previous = pump->ready.ready_previous;
  entry->ready_previous->ready_next = entry;
  pump->ready.ready_previous = entry;
}

static void not_ready(struct entry *entry) {
  entry->ready_previous->ready_next = entry->ready_next;
  entry->ready_next->ready_previous = entry->ready_previous;
  entry->ready_next = entry->ready_previous = entry;
}

/* ---- entries ---- */

static void wake(struct pump *pump) {
  uint64_t one = 1;
  while (write(pump->wake, &one, sizeof one) < 0 && errno == EINTR) {
  }
}

/* Under the lock. */
static bool add_chunk(struct pump *pump) {
  if (pump->chunk_count == CHUNKS_MAX) return false;
  struct chunk *chunk = calloc(1, sizeof *chunk);
  if (chunk == NULL) return false;
  for (uint32_t i = CHUNK_ENTRIES; i-- > 0;) {
    struct entry *entry = &chunk->entries[i];
    entry->id = pump->chunk_count * CHUNK_ENTRIES + i;
    entry->ready_next = entry->ready_previous = entry;
    entry->next_ended = pump->unused;
    pump->unused = entry;
  }
  atomic_store_explicit(&pump->chunks[pump->chunk_count++], chunk, memory_order_release);
  return true;
}

static struct entry *take_unused(struct pump *pump) {
  pthread_mutex_lock(&pump->lock);
  struct entry *entry = pump->unused != NULL || add_chunk(pump) ? pump->unused : NULL;
  if (entry != NULL) pump->unused = entry->next_ended;
  pthread_mutex_unlock(&pump->lock);
  return entry;
}

/* ---- ends ---- */

/* Under the lock: whether the other thread has taken all there was. */
static bool nothing_to_take(const struct pump *pump) {
  return pump->ended == NULL && pump->accepted == NULL && !pump->stopping;
}

/* Gives everything back and reports. The one place where a connection's descriptors are closed. */
static void finish(struct pump *pump, struct entry *entry, enum pump_end end, int error) {
  /* What is cut off from outside ends in a reset: a goodbye would tell its reader that all of it had come. */
  bool gently = entry->state == MOVING && (end == PUMP_CLOSED || end == PUMP_IDLE || end == PUMP_HALF_CLOSED);
  for (int i = 0; i < 2; i++) {
    struct flow *flow = &entry->flow[i];
    return_pipe(pump, flow);
    free(flow->held);
    flow->held = NULL;
    struct linger now = {.l_onoff = 1, .l_linger = 0};
    if (entry->fd[i] < 0) continue;
    if (!gently) setsockopt(entry->fd[i], SOL_SOCKET, SO_LINGER, &now, sizeof now);
    close(entry->fd[i]);
    entry->fd[i] = -1;
  }
  heap_remove(pump, entry);
  not_ready(entry);
  entry->open = false;
  entry->ended_at = pump->now;
  entry->end = (uint8_t)end;
  entry->error = error;
  if (entry->listener >= 0) pump_left(pump, entry->listener);

  pthread_mutex_lock(&pump->lock);
  bool first = nothing_to_take(pump);
  entry->next_ended = NULL;
  *pump->ended_tail = entry;
  pump->ended_tail = &entry->next_ended;
  pthread_mutex_unlock(&pump->lock);
  if (first) pump->on_ended(pump->context);
}

/*
 * One side is gone for good. What it had sent still goes to the other one, as far as that takes it now; a reset could
 * overtake bytes that are still on their way there, so it waits a little where there are any.
 */
static void lost(struct pump *pump, struct entry *entry, int side, int error) {
  entry->end = side == 0 ? PUMP_CLIENT_LOST : PUMP_UPSTREAM_LOST;
  entry->error = error;
  entry->losing = true;
  move(pump, entry, side, SIZE_MAX / 2);
  int unsent = 0;
  if (ioctl(entry->fd[!side], SIOCOUTQ, &unsent) != 0 || unsent == 0) {
    return finish(pump, entry, entry->end, error);
  }
  entry->lingering = true;
  not_ready(entry);
  set_deadline(pump, entry, pump->now + LINGER_MS);
}

/* Whether a side that said goodbye was reset since: nothing is read from it any more that would tell. */
static int error_after_end(struct flow *flow, int fd) {
  if (!flow->broken || !flow->ended) return 0;
  int error = 0;
  socklen_t length = sizeof error;
  return getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &length) == 0 ? error : 0;
}

/* Moves both directions once. */
static void take_turn(struct pump *pump, struct entry *entry) {
  not_ready(entry);
  if (entry->lingering || entry->state != MOVING) return;
  bool again = false;
  for (int i = 0; i < 2; i++) {
    switch (move(pump, entry, i, TURN_BYTES_MAX)) {
      case STEP_ON: again = true; break;
      case STEP_WAIT: break;
      case STEP_FROM_LOST: return lost(pump, entry, i, errno);
      case STEP_TO_LOST: return lost(pump, entry, !i, errno);
      case STEP_FAILED: return finish(pump, entry, PUMP_FAILED, ENOMEM);
    }
  }
  if (entry->flow[0].passed && entry->flow[1].passed) return finish(pump, entry, PUMP_CLOSED, 0);
  for (int i = 0; i < 2; i++) {
    int error = error_after_end(&entry->flow[i], entry->fd[i]);
    if (error != 0) return lost(pump, entry, i, error);
  }
  if (again) make_ready(pump, entry);
}

static void expire(struct pump *pump) {
  while (pump->heap_count > 0) {
    struct entry *entry = *heap_place(pump, 0);
    if (entry->deadline > pump->now) return;
    uint64_t deadline = entry->lingering || entry->state == CONNECTING ? entry->deadline : deadline_of(entry);
    if (deadline > pump->now) set_deadline(pump, entry, deadline);
    else if (entry->state == CONNECTING) finish(pump, entry, PUMP_CONNECT_TIMEOUT, ETIMEDOUT);
    else if (entry->lingering) finish(pump, entry, entry->end, entry->error);
    else {
      bool half = half_closed(entry) && deadline == entry->last_byte_at + entry->half_closed_ms;
      finish(pump, entry, half ? PUMP_HALF_CLOSED : PUMP_IDLE, 0);
    }
  }
}

/* ---- the thread ---- */

static void set_option(int fd, int level, int name, uint32_t value) {
  setsockopt(fd, level, name, &value, sizeof value); /* what cannot be set leaves the default: no reason to give up */
}

static bool watch(struct pump *pump, struct entry *entry) {
  for (int i = 0; i < 2; i++) {
    /* The urgent byte travels as an ordinary one, in its place: dropping it, as is the default, would lose a byte.
       Accepted sockets have this from their listener. */
    if (i == 1 || entry->listener < 0) set_option(entry->fd[i], SOL_SOCKET, SO_OOBINLINE, 1);
    struct epoll_event event = {
      .events = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLPRI | EPOLLET,
      .data.u64 = (uint64_t)entry->id << 1 | (uint64_t)i,
    };
    if (epoll_ctl(pump->epoll, EPOLL_CTL_ADD, entry->fd[i], &event) != 0) {
      finish(pump, entry, PUMP_FAILED, errno);
      return false;
    }
  }
  return true;
}

static void begin(struct pump *pump, struct entry *entry) {
  entry->open = true;
  entry->last_byte_at = pump->now;
  if (watch(pump, entry)) set_deadline(pump, entry, deadline_of(entry));
}

/* ---- accepting ---- */

static socklen_t to_sockaddr(const struct pump_address *address, struct sockaddr_storage *out) {
  memset(out, 0, sizeof *out);
  if (address->family == 4) {
    struct sockaddr_in *in = (struct sockaddr_in *)out;
    in->sin_family = AF_INET;
    in->sin_port = htons(address->port);
    memcpy(&in->sin_addr, address->ip + 12, 4);
    return sizeof *in;
  }
  struct sockaddr_in6 *in6 = (struct sockaddr_in6 *)out;
  in6->sin6_family = AF_INET6;
  in6->sin6_port = htons(address->port);
  memcpy(&in6->sin6_addr, address->ip, 16);
  return sizeof *in6;
}

/* IPv4 is kept as IPv6 sees it, mapped, so that one form is compared. */
static struct pump_address from_sockaddr(const struct sockaddr_storage *from) {
  static const uint8_t mapped[12] = {[10] = 0xff, [11] = 0xff};
  struct pump_address address = {.family = 0};
  if (from->ss_family == AF_INET) {
    const struct sockaddr_in *in = (const struct sockaddr_in *)from;
    memcpy(address.ip, mapped, 12);
    memcpy(address.ip + 12, &in->sin_addr, 4);
    address.port = ntohs(in->sin_port);
    address.family = 4;
  } else if (from->ss_family == AF_INET6) {
    const struct sockaddr_in6 *in6 = (const struct sockaddr_in6 *)from;
    memcpy(address.ip, &in6->sin6_addr, 16);
    address.port = ntohs(in6->sin6_port);
    address.family = memcmp(address.ip, mapped, 12) == 0 ? 4 : 6;
  }
  return address;
}

static uint32_t hash_of(uint32_t listener, const struct pump_address *peer, const struct pump_address *destination) {
  uint32_t hash = 2166136261u ^ listener;
  for (int i = 0; i < 16; i++) hash = (hash ^ peer->ip[i]) * 16777619u;
  for (int i = 0; i < 16; i++) hash = (hash ^ destination->ip[i]) * 16777619u;
  return (hash ^ destination->port) * 16777619u;
}

/* Under the lock. With `make`, the place for such a route, taken from another one if need be. */
static struct route_entry *find_route(struct pump *pump, const struct entry *entry, bool make) {
  uint32_t listener = (uint32_t)entry->listener;
  uint32_t at = hash_of(listener, &entry->peer, &entry->destination);
  struct route_entry *oldest = NULL;
  for (uint32_t i = 0; i < ROUTE_PROBES_MAX; i++) {
    struct route_entry *found = &pump->routes[(at + i) % ROUTES_MAX];
    if (found->good_until != 0 && found->listener == listener && memcmp(found->peer.ip, entry->peer.ip, 16) == 0 &&
        memcmp(found->destination.ip, entry->destination.ip, 16) == 0 &&
        found->destination.port == entry->destination.port) {
      return found;
    }
    if (oldest == NULL || found->good_until < oldest->good_until) oldest = found;
  }
  return make ? oldest : NULL;
}

/* From here on pump_list shows it: whoever forgets the routes, and then lists, misses nobody. */
static bool known_route(struct pump *pump, struct entry *entry, struct pump_route *route) {
  pthread_mutex_lock(&pump->lock);
  struct route_entry *found = find_route(pump, entry, false);
  bool good = found != NULL && found->good_until > pump->now;
  if (good) {
    *route = found->route;
    entry->tag = route->tag;
    atomic_store_explicit(&entry->listed, true, memory_order_release);
  }
  pthread_mutex_unlock(&pump->lock);
  return good;
}

static void ask(struct pump *pump, struct entry *entry) {
  entry->state = WAITING;
  pthread_mutex_lock(&pump->lock);
  bool first = nothing_to_take(pump);
  entry->next_added = NULL;
  *pump->accepted_tail = entry;
  pump->accepted_tail = &entry->next_added;
  pthread_mutex_unlock(&pump->lock);
  if (first) pump->on_ended(pump->context);
}

static void connect_to(struct pump *pump, struct entry *entry, const struct pump_route *route) {
  entry->open = true;
  entry->state = CONNECTING;
  entry->idle_ms = route->idle_ms;
  entry->half_closed_ms = route->half_closed_ms;
  entry->last_byte_at = pump->now;

  struct sockaddr_storage to;
  socklen_t length = to_sockaddr(&route->upstream, &to);
  int fd = socket(to.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
  if (fd < 0) return finish(pump, entry, PUMP_NOT_CONNECTED, errno);
  entry->fd[1] = fd;
  const struct pump_dial_options *options = &pump->dial_options;
  set_option(fd, IPPROTO_TCP, TCP_NODELAY, 1);
  if (options->mark != 0) set_option(fd, SOL_SOCKET, SO_MARK, options->mark);
  if (options->user_timeout_ms != 0) set_option(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, options->user_timeout_ms);
  if (options->keepalive_s != 0) {
    set_option(fd, IPPROTO_TCP, TCP_KEEPIDLE, options->keepalive_s);
    set_option(fd, IPPROTO_TCP, TCP_KEEPINTVL, options->keepalive_s);
    set_option(fd, IPPROTO_TCP, TCP_KEEPCNT, 3);
    set_option(fd, SOL_SOCKET, SO_KEEPALIVE, 1);
  }
  if (connect(fd, (struct sockaddr *)&to, length) != 0 && errno != EINPROGRESS) {
    return finish(pump, entry, PUMP_NOT_CONNECTED, errno);
  }
  entry->upstream = route->upstream;
  struct sockaddr_storage from;
  length = sizeof from;
  if (pump->asks_kernel && getsockname(fd, (struct sockaddr *)&from, &length) == 0) {
    entry->local = from_sockaddr(&from);
    pump->dialled[entry->local.port] = entry->id + 1;
  }
  if (watch(pump, entry)) set_deadline(pump, entry, pump->now + route->connect_ms);
}

static bool same_address(const struct pump_address *a, const struct pump_address *b) {
  return a->port == b->port && memcmp(a->ip, b->ip, 16) == 0;
}

/*
 * Where the redirect does not spare the proxy, what it dials comes back as if somebody had called, for ever. The one
 * that comes back is known by its two ends, which no other connection has at the same time.
 */
static bool comes_back(const struct pump *pump, const struct entry *entry) {
  uint32_t by = pump->dialled[entry->peer.port];
  if (by == 0) return false;
  const struct entry *dialler = entry_of(pump, by - 1);
  return dialler->open && dialler->tag != 0 && same_address(&dialler->local, &entry->peer) &&
         same_address(&dialler->upstream, &entry->destination);
}

/* An event for a connection whose upstream has not answered yet. */
static void note_connect(struct pump *pump, struct entry *entry, int side, uint32_t events) {
  if (side == 0) {
    if (events & (EPOLLERR | EPOLLHUP)) finish(pump, entry, PUMP_CLIENT_GONE, 0);
    return;
  }
  int error = 0;
  socklen_t length = sizeof error;
  if (events & (EPOLLERR | EPOLLHUP)) getsockopt(entry->fd[1], SOL_SOCKET, SO_ERROR, &error, &length);
  if (error != 0) return finish(pump, entry, PUMP_NOT_CONNECTED, error);
  if (!(events & EPOLLOUT)) return;
  entry->state = MOVING;
  entry->last_byte_at = pump->now;
  set_deadline(pump, entry, deadline_of(entry));
}

static void accepted(struct pump *pump, int listener, int fd, const struct sockaddr_storage *from) {
  struct listener *of = &pump->listeners[listener];
  struct entry *entry = take_unused(pump);
  if (entry == NULL) {
    close(fd);
    return;
  }
  entry->fd[0] = fd;
  entry->fd[1] = -1;
  entry->listener = listener;
  entry->tag = 0;
  entry->losing = entry->lingering = false;
  entry->accepted_at = pump->now;
  for (int i = 0; i < 2; i++) entry->flow[i] = (struct flow){.pipe.out = -1};
  entry->peer = from_sockaddr(from);
  entry->destination = of->about.destination;
  if (entry->destination.family == 0) {
    struct sockaddr_storage original = {0};
    socklen_t length = sizeof original;
    /* A dual-stack socket's IPv4 clients are asked about as IPv4 ones. */
    int level = entry->peer.family == 6 ? IPPROTO_IPV6 : IPPROTO_IP;
    if (getsockopt(fd, level, ORIGINAL_DST, &original, &length) == 0) entry->destination = from_sockaddr(&original);
  }
  entry->is_own = entry->destination.family != 0 && comes_back(pump, entry);
  uint32_t open = atomic_fetch_add_explicit(&of->open, 1, memory_order_relaxed) + 1;
  struct pump_route route;
  if (entry->destination.family != 0 && !entry->is_own && open <= of->about.connections_max && known_route(pump, entry, &route)) {
    connect_to(pump, entry, &route);
  } else {
    ask(pump, entry);
  }
}

/* Level-triggered: what is not accepted now is announced again. */
static void accept_some(struct pump *pump, int listener) {
  for (int i = 0; i < ACCEPTS_MAX; i++) {
    struct sockaddr_storage from = {0};
    socklen_t length = sizeof from;
    int fd = accept4(pump->listeners[listener].fd, (struct sockaddr *)&from, &length, SOCK_NONBLOCK | SOCK_CLOEXEC);
    if (fd >= 0) {
      accepted(pump, listener, fd, &from);
      continue;
    }
    if (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM) {
      pump->accept_again_at = pump->now + NO_DESCRIPTOR_PAUSE_MS;
      pump->listening_changed = true;
    }
    if (errno != ECONNABORTED && errno != EINTR) return;
  }
}

/* Makes epoll watch the listeners as they should be now. */
static void watch_listeners(struct pump *pump) {
  for (int i = 0; i < PUMP_LISTENERS_MAX; i++) {
    struct listener *listener = &pump->listeners[i];
    if (listener->fd < 0) continue;
    if (listener->stop) {
      close(listener->fd);
      listener->fd = -1;
      continue;
    }
    if (listener->about.destination.family == 0) pump->asks_kernel = true;
    struct epoll_event event = {.events = pump->accept_again_at == 0 ? EPOLLIN : 0, .data.u64 = LISTENER + (uint64_t)i};
    if (epoll_ctl(pump->epoll, EPOLL_CTL_MOD, listener->fd, &event) != 0) {
      epoll_ctl(pump->epoll, EPOLL_CTL_ADD, listener->fd, &event);
    }
  }
}

/* Takes an entry off the list of those to close. */
static void forget_told(struct entry *entry) {
  if (entry->told_by == NULL) return;
  *entry->told_by = entry->next_told;
  if (entry->next_told != NULL) entry->next_told->told_by = entry->told_by;
  entry->told_by = NULL;
}

/* Does what the other thread asked for, an add always before the order to close it; false when it is time to stop. */
static bool follow_orders(struct pump *pump) {
  for (;;) {
    pthread_mutex_lock(&pump->lock);
    struct entry *added = pump->added, *told = NULL;
    if (added != NULL) {
      pump->added = added->next_added;
      if (pump->added == NULL) pump->added_tail = &pump->added;
    } else if ((told = pump->told) != NULL) {
      forget_told(told);
    }
    bool stopping = pump->stopping, changed = pump->listening_changed;
    pump->listening_changed = false;
    if (changed) watch_listeners(pump);
    pthread_mutex_unlock(&pump->lock);

    struct pump_route route;
    if (added != NULL && added->state == MOVING) begin(pump, added);
    else if (added != NULL && known_route(pump, added, &route)) connect_to(pump, added, &route);
    else if (added != NULL) ask(pump, added); /* its route was forgotten again */
    else if (told == NULL) return !stopping;
    else if (told->open) finish(pump, told, PUMP_TOLD, 0);
  }
}

static void note_event(struct pump *pump, const struct epoll_event *event) {
  struct entry *entry = entry_of(pump, (uint32_t)(event->data.u64 >> 1));
  int side = (int)(event->data.u64 & 1);
  if (!entry->open) return;
  if (entry->state == CONNECTING) {
    note_connect(pump, entry, side, event->events);
    if (!entry->open) return;
  }
  struct flow *out_of = &entry->flow[side], *into = &entry->flow[!side];
  if (event->events & (EPOLLIN | EPOLLRDHUP | EPOLLHUP | EPOLLERR | EPOLLPRI)) out_of->readable = true;
  if (event->events & (EPOLLOUT | EPOLLHUP | EPOLLERR)) into->writable = true;
  if (event->events & (EPOLLRDHUP | EPOLLHUP | EPOLLERR)) out_of->hung = true;
  if (event->events & EPOLLERR) out_of->broken = true;
  if (event->events & EPOLLPRI) {
    out_of->copies = true;
    out_of->bulk = false;
  }
  make_ready(pump, entry);
}

static int milliseconds_to_wait(struct pump *pump) {
  if (pump->ready.ready_next != &pump->ready) return 0;
  uint64_t deadline = pump->heap_count > 0 ? (*heap_place(pump, 0))->deadline : UINT64_MAX;
  if (pump->accept_again_at != 0 && pump->accept_again_at < deadline) deadline = pump->accept_again_at;
  if (deadline == UINT64_MAX) return -1;
  if (deadline <= pump->now) return 0;
  return deadline - pump->now > 3600000 ? 3600000 : (int)(deadline - pump->now);
}

static void close_all(struct pump *pump) {
  for (uint32_t id = 0; id < pump->chunk_count * CHUNK_ENTRIES; id++) {
    struct entry *entry = entry_of(pump, id);
    if (entry->open) finish(pump, entry, PUMP_TOLD, 0);
  }
  for (struct entry *entry = pump->accepted; entry != NULL; entry = entry->next_added) close(entry->fd[0]);
  for (int i = 0; i < PUMP_LISTENERS_MAX; i++) {
    if (pump->listeners[i].fd >= 0) close(pump->listeners[i].fd);
  }
  while (pump->spare_count > 0) close_pipe(pump, pump->spare[--pump->spare_count]);
}

static void *run(void *argument) {
  struct pump *pump = argument;
  struct epoll_event events[EVENTS_MAX];
  for (bool going = true; going;) {
    int count = epoll_wait(pump->epoll, events, EVENTS_MAX, milliseconds_to_wait(pump));
    pump->now = clock_ms();
    bool orders = false;
    uint64_t accept_from = 0;
    for (int i = 0; i < count; i++) {
      if (events[i].data.u64 == WAKE) orders = true;
      else if (events[i].data.u64 >= LISTENER) accept_from |= UINT64_C(1) << (events[i].data.u64 - LISTENER);
      else note_event(pump, &events[i]);
    }
    /* Those who are ready now have one turn each; who becomes ready meanwhile waits for the next round. */
    struct entry *last = pump->ready.ready_previous;
    while (last != &pump->ready) {
      struct entry *entry = pump->ready.ready_next;
      bool end = entry == last;
      take_turn(pump, entry);
      if (end) break;
    }
    expire(pump);
    for (int i = 0; accept_from != 0; i++, accept_from >>= 1) {
      if (accept_from & 1) accept_some(pump, i);
    }
    if (pump->accept_again_at != 0 && pump->accept_again_at <= pump->now) {
      pump->accept_again_at = 0;
      orders = pump->listening_changed = true;
    }
    /* Last, so that no event of this round can meet an entry that was given to another connection. */
    if (orders) {
      uint64_t wakes;
      if (read(pump->wake, &wakes, sizeof wakes) < 0) wakes = 0;
      going = follow_orders(pump);
    }
  }
  close_all(pump);
  return NULL;
}

/* ---- what the other thread calls ---- */

static struct pump *fail(struct pump *pump, int error) {
  if (pump->wake >= 0) close(pump->wake);
  if (pump->epoll >= 0) close(pump->epoll);
  free(pump);
  errno = error;
  return NULL;
}

struct pump *pump_start(uint32_t pipes_max, void (*ended)(void *), void *context) {
  struct pump *pump = calloc(1, sizeof *pump);
  if (pump == NULL) return NULL;
  pump->on_ended = ended;
  pump->context = context;
  pump->pipes_max = pipes_max;
  pump->added_tail = &pump->added;
  pump->ended_tail = &pump->ended;
  pump->accepted_tail = &pump->accepted;
  for (int i = 0; i < PUMP_LISTENERS_MAX; i++) pump->listeners[i].fd = -1;
  pump->ready.ready_next = pump->ready.ready_previous = &pump->ready;
  pump->now = clock_ms();
  pump->wake = -1;
  pump->epoll = epoll_create1(EPOLL_CLOEXEC);
  if (pump->epoll < 0) return fail(pump, errno);
  pump->wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  if (pump->wake < 0) return fail(pump, errno);
  struct epoll_event event = {.events = EPOLLIN, .data.u64 = WAKE};
  if (epoll_ctl(pump->epoll, EPOLL_CTL_ADD, pump->wake, &event) != 0) return fail(pump, errno);
  pthread_mutex_init(&pump->lock, NULL);

  /* The thread starts with every signal blocked: they are the process's, and SIGPIPE is an errno here. */
  sigset_t all, before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  int error = pthread_create(&pump->thread, NULL, run, pump);
  pthread_sigmask(SIG_SETMASK, &before, NULL);
  if (error != 0) return fail(pump, error);
  pthread_setname_np(pump->thread, "sluice-pump");
  return pump;
}

/* Under the lock, which it gives back: the pump's thread is to begin with this entry. */
static void add_order(struct pump *pump, struct entry *entry) {
  bool first = pump->added == NULL && pump->told == NULL;
  entry->next_added = NULL;
  *pump->added_tail = entry;
  pump->added_tail = &entry->next_added;
  pthread_mutex_unlock(&pump->lock);
  if (first) wake(pump);
}

int64_t pump_add(struct pump *pump, const struct pump_connection *connection) {
  struct pump_bytes heads[2] = {connection->to_upstream, connection->to_client};
  struct held *held[2] = {NULL, NULL};
  for (int i = 0; i < 2; i++) {
    if (heads[i].length == 0) continue;
    held[i] = hold(heads[i].data, heads[i].length);
    if (held[i] == NULL) {
      free(held[0]);
      return -ENOMEM;
    }
  }

  struct entry *entry = take_unused(pump);
  if (entry == NULL) {
    free(held[0]);
    free(held[1]);
    return -ENOMEM;
  }
  entry->state = MOVING;
  entry->listener = -1;
  entry->tag = 0;
  entry->fd[0] = connection->client;
  entry->fd[1] = connection->upstream;
  entry->idle_ms = connection->idle_ms;
  entry->half_closed_ms = connection->half_closed_ms;
  entry->losing = entry->lingering = false;
  for (int i = 0; i < 2; i++) {
    entry->flow[i] = (struct flow){.moved = heads[i].length, .held = held[i], .pipe.out = -1};
  }

  uint32_t id = entry->id; /* the entry is the pump's once the order is given */
  pthread_mutex_lock(&pump->lock);
  add_order(pump, entry);
  return id;
}

void pump_count(const struct pump *pump, uint32_t id, uint64_t *sent, uint64_t *received) {
  const struct entry *entry = entry_of(pump, id);
  *sent = atomic_load_explicit(&entry->flow[0].moved, memory_order_relaxed);
  *received = atomic_load_explicit(&entry->flow[1].moved, memory_order_relaxed);
}

void pump_tell_close(struct pump *pump, uint32_t id) {
  struct entry *entry = entry_of(pump, id);
  pthread_mutex_lock(&pump->lock);
  bool first = pump->added == NULL && pump->told == NULL;
  if (entry->told_by == NULL) {
    entry->next_told = pump->told;
    if (pump->told != NULL) pump->told->told_by = &entry->next_told;
    entry->told_by = &pump->told;
    pump->told = entry;
  }
  pthread_mutex_unlock(&pump->lock);
  if (first) wake(pump);
}

static struct pump_accepted described(const struct entry *entry) {
  return (struct pump_accepted){
    .id = entry->id,
    .listener = (uint32_t)entry->listener,
    .tag = entry->tag,
    .peer = entry->peer,
    .destination = entry->destination,
    .age_ms = entry->listener >= 0 ? clock_ms() - entry->accepted_at : 0,
  };
}

size_t pump_take_ended(struct pump *pump, struct pump_ended *out, size_t count) {
  size_t taken = 0;
  pthread_mutex_lock(&pump->lock);
  while (taken < count && pump->ended != NULL) {
    struct entry *entry = pump->ended;
    pump->ended = entry->next_ended;
    if (pump->ended == NULL) pump->ended_tail = &pump->ended;
    atomic_store_explicit(&entry->listed, false, memory_order_relaxed); /* not before: it is open until reported */
    forget_told(entry); /* an order that came too late must not reach the connection which gets this entry next */
    out[taken] = (struct pump_ended){.id = entry->id, .end = entry->end, .error = entry->error};
    out[taken].accepted = described(entry);
    out[taken].lasted_ms = entry->listener >= 0 ? entry->ended_at - entry->accepted_at : 0;
    pump_count(pump, entry->id, &out[taken].sent, &out[taken].received);
    entry->next_ended = pump->unused;
    pump->unused = entry;
    taken++;
  }
  pthread_mutex_unlock(&pump->lock);
  return taken;
}

int pump_listen(struct pump *pump, const struct pump_listening *listening) {
  int number = -1;
  pthread_mutex_lock(&pump->lock);
  /* No number is given twice: reports about the connections of a closed listener may still be under way. */
  if (pump->listener_count < PUMP_LISTENERS_MAX) {
    number = pump->listener_count++;
    set_option(listening->fd, SOL_SOCKET, SO_OOBINLINE, 1);
    pump->listeners[number].about = *listening;
    pump->listeners[number].stop = false;
    pump->listeners[number].fd = listening->fd;
    pump->listening_changed = true;
  }
  pthread_mutex_unlock(&pump->lock);
  wake(pump);
  return number;
}

void pump_stop_listening(struct pump *pump, int listener) {
  pthread_mutex_lock(&pump->lock);
  pump->listeners[listener].stop = true;
  pump->listening_changed = true;
  pthread_mutex_unlock(&pump->lock);
  wake(pump);
}

void pump_set_dial_options(struct pump *pump, const struct pump_dial_options *options) {
  pump->dial_options = *options;
}

size_t pump_take_accepted(struct pump *pump, struct pump_accepted *out, size_t count) {
  size_t taken = 0;
  pthread_mutex_lock(&pump->lock);
  while (taken < count && pump->accepted != NULL) {
    struct entry *entry = pump->accepted;
    pump->accepted = entry->next_added;
    if (pump->accepted == NULL) pump->accepted_tail = &pump->accepted;
    out[taken] = described(entry);
    out[taken].is_own = entry->is_own;
    out[taken++].open = atomic_load_explicit(&pump->listeners[entry->listener].open, memory_order_relaxed);
  }
  pthread_mutex_unlock(&pump->lock);
  return taken;
}

void pump_take_route(struct pump *pump, uint32_t id, const struct pump_route *route) {
  struct entry *entry = entry_of(pump, id);
  pthread_mutex_lock(&pump->lock);
  struct route_entry *place = find_route(pump, entry, true);
  *place = (struct route_entry){
    .route = *route,
    .listener = (uint32_t)entry->listener,
    .good_until = clock_ms() + route->good_ms,
    .peer = entry->peer,
    .destination = entry->destination,
  };
  add_order(pump, entry);
}

int pump_release(struct pump *pump, uint32_t id) {
  struct entry *entry = entry_of(pump, id);
  int fd = entry->fd[0];
  pthread_mutex_lock(&pump->lock);
  entry->next_ended = pump->unused;
  pump->unused = entry;
  pthread_mutex_unlock(&pump->lock);
  return fd;
}

void pump_left(struct pump *pump, int listener) {
  atomic_fetch_sub_explicit(&pump->listeners[listener].open, 1, memory_order_relaxed);
}

void pump_forget_routes(struct pump *pump) {
  pthread_mutex_lock(&pump->lock);
  for (uint32_t i = 0; i < ROUTES_MAX; i++) pump->routes[i].good_until = 0;
  pthread_mutex_unlock(&pump->lock);
}

size_t pump_list(const struct pump *pump, uint32_t *from, struct pump_accepted *out, size_t count) {
  size_t listed = 0;
  uint32_t end = atomic_load_explicit(&pump->chunk_count, memory_order_acquire) * CHUNK_ENTRIES;
  for (; *from < end && listed < count; ++*from) {
    const struct entry *entry = entry_of(pump, *from);
    if (atomic_load_explicit(&entry->listed, memory_order_acquire)) out[listed++] = described(entry);
  }
  return listed;
}

void pump_stop(struct pump *pump) {
  pthread_mutex_lock(&pump->lock);
  pump->stopping = true;
  pthread_mutex_unlock(&pump->lock);
  wake(pump);
  pthread_join(pump->thread, NULL);
  close(pump->wake);
  close(pump->epoll);
  pthread_mutex_destroy(&pump->lock);
  for (uint32_t i = 0; i < pump->chunk_count; i++) free(pump->chunks[i]);
  free(pump);
}
