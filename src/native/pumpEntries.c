/* A connection from its entry to its end. */
#define _GNU_SOURCE
#include "pumpInside.h"
#include <errno.h>
#include <linux/sockios.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

/* ---- the rings of those with something to do ---- */

void make_ready(struct pump *pump, struct entry *entry, bool is_bulk) {
  if (entry->ready_next != entry) return;
  struct entry *ring = is_bulk ? &pump->ready_bulk : &pump->ready;
  entry->ready_next = ring;
  entry->ready_previous = ring->ready_previous;
  entry->ready_previous->ready_next = entry;
  ring->ready_previous = entry;
}

void not_ready(struct entry *entry) {
  entry->ready_previous->ready_next = entry->ready_next;
  entry->ready_next->ready_previous = entry->ready_previous;
  entry->ready_next = entry->ready_previous = entry;
}

/* ---- entries ---- */

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
  /* Counted last: pump_list and pump_total go by the count, without the lock. */
  atomic_store_explicit(&pump->chunks[pump->chunk_count], chunk, memory_order_release);
  atomic_fetch_add_explicit(&pump->chunk_count, 1, memory_order_release);
  return true;
}

struct entry *take_unused(struct pump *pump) {
  pthread_mutex_lock(&pump->lock);
  struct entry *entry = pump->unused != NULL || add_chunk(pump) ? pump->unused : NULL;
  if (entry != NULL) pump->unused = entry->next_ended;
  pthread_mutex_unlock(&pump->lock);
  return entry;
}

/* ---- ends ---- */

/*
 * Tells the other thread that there is something to take. Once is enough until it takes something; what is added while
 * it is taking is told anew, since it may have looked there already.
 */
void report(struct pump *pump) {
  pump->report_at = 0;
  pthread_mutex_lock(&pump->lock);
  bool call = !pump->called && !pump->stopping && (pump->ended != NULL || pump->accepted != NULL);
  if (call) pump->called = true;
  pump->unreported = 0;
  pthread_mutex_unlock(&pump->lock);
  if (call) pump->on_ended(pump->context);
}

/* Gives everything back and reports. The one place where a connection's descriptors are closed. */
void finish(struct pump *pump, struct entry *entry, enum pump_end end, int error) {
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

  /* Somebody waits for the end of a connection that was handed over, or closed by order. Of others there are many. */
  bool urgent = entry->tag == 0 || end == PUMP_TOLD;
  pthread_mutex_lock(&pump->lock);
  entry->next_ended = NULL;
  *pump->ended_tail = entry;
  pump->ended_tail = &entry->next_ended;
  if (++pump->unreported >= REPORT_ENTRIES_MAX) urgent = true;
  pthread_mutex_unlock(&pump->lock);
  if (urgent) report(pump);
  else if (pump->report_at == 0) pump->report_at = pump->now + REPORT_DELAY_MS;
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
  if (again) make_ready(pump, entry, true); /* it had a full turn, and has more */
}

/*
 * Those who are ready now have one turn each; who becomes ready meanwhile waits for the next round. Bulk comes last, and
 * of it no more than one full turn before the events are looked at again: so a message waits for one of a hundred
 * transfers, not for all.
 */
void take_turns(struct pump *pump) {
  struct entry *rings[2] = {&pump->ready, &pump->ready_bulk};
  for (int i = 0; i < 2; i++) {
    struct entry *ring = rings[i], *last = ring->ready_previous, *entry;
    uint64_t until = i == 0 ? UINT64_MAX : pump->moved + TURN_BYTES_MAX;
    if (last == ring) continue;
    do {
      entry = ring->ready_next;
      take_turn(pump, entry);
    } while (entry != last && pump->moved < until);
  }
}
