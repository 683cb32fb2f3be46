/* How a byte travels: see the top of pumpInside.h. */
#define _GNU_SOURCE
#include "pumpInside.h"
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

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

void return_pipe(struct pump *pump, struct flow *flow) {
  if (flow->pipe.out < 0) return;
  /* One that still holds bytes would give them to somebody else. */
  if (flow->in_pipe == 0 && pump->spare_count < SPARE_PIPES_MAX) {
    pump->spare[pump->spare_count++] = flow->pipe;
    pump->drop_pipes_at = pump->now + SPARE_PIPES_MS;
  } else {
    close_pipe(pump, flow->pipe);
  }
  flow->pipe.out = -1;
  flow->in_pipe = 0;
}

void close_spare_pipes(struct pump *pump) {
  pump->drop_pipes_at = 0;
  while (pump->spare_count > 0) close_pipe(pump, pump->spare[--pump->spare_count]);
}

/* ---- moving bytes ---- */

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
  pump->moved += bytes;
}

static void sender_ended(struct pump *pump, struct entry *entry, struct flow *flow) {
  flow->ended = true;
  flow->bulk = false;
  entry->last_byte_at = pump->now;
  set_deadline(pump, entry, next_look(entry)); /* it may have come nearer */
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

struct held *hold(const void *data, size_t length) {
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
enum step move(struct pump *pump, struct entry *entry, int i, size_t turn_bytes) {
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
    bool had_turn = atomic_load_explicit(&flow->moved, memory_order_relaxed) >= until;
    /* It is empty. Whoever is next takes it; only bytes that nobody takes hold a pipe for longer than a turn. */
    if (!flow->bulk || !flow->readable || had_turn) return_pipe(pump, flow);
    if (!flow->readable) return STEP_WAIT;
    if (had_turn) return STEP_ON;
    bool spliced = flow->bulk && (flow->pipe.out >= 0 || borrow_pipe(pump, flow));
    step = spliced ? fill_pipe(pump, entry, flow, from) : copy(pump, entry, flow, from, to);
    if (step != STEP_ON && step != STEP_WAIT) return step;
  }
}
