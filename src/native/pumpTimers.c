/* Deadlines: a binary heap, with keys that may be too early and are then put right when they come up. */
#define _GNU_SOURCE
#include "pumpInside.h"
#include <errno.h>

struct entry **heap_place(struct pump *pump, uint32_t at) {
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

void heap_remove(struct pump *pump, struct entry *entry) {
  if (!entry->in_heap) return;
  entry->in_heap = false;
  struct entry *last = *heap_place(pump, --pump->heap_count);
  if (last == entry) return;
  last->heap_at = entry->heap_at;
  heap_settle(pump, last);
}

void set_deadline(struct pump *pump, struct entry *entry, uint64_t deadline) {
  if (deadline == UINT64_MAX) return heap_remove(pump, entry);
  entry->deadline = deadline;
  if (!entry->in_heap) {
    entry->in_heap = true;
    entry->heap_at = pump->heap_count++;
  }
  heap_settle(pump, entry);
}

bool half_closed(const struct entry *entry) { return entry->flow[0].ended || entry->flow[1].ended; }

/* When the connection is over if nothing more happens: as in net/relay.ts, the shorter one once one side has ended. */
static uint64_t deadline_of(const struct entry *entry) {
  uint64_t idle = entry->idle_ms != 0 ? entry->idle_ms : UINT64_MAX;
  uint64_t half = half_closed(entry) && entry->half_closed_ms != 0 ? entry->half_closed_ms : UINT64_MAX;
  uint64_t limit = half < idle ? half : idle;
  return limit == UINT64_MAX ? UINT64_MAX : entry->last_byte_at + limit;
}

/* When it is looked at next if nothing more happens. */
uint64_t next_look(const struct entry *entry) {
  uint64_t deadline = deadline_of(entry), tune_at = entry->accepted_at + TUNE_AFTER_MS;
  return entry->untuned && tune_at < deadline ? tune_at : deadline;
}

void expire(struct pump *pump) {
  while (pump->heap_count > 0) {
    struct entry *entry = *heap_place(pump, 0);
    if (entry->deadline > pump->now) return;
    if (entry->ready_next != entry) entry->last_byte_at = pump->now; /* who waits for a turn is not silent */
    uint64_t deadline = entry->lingering || entry->state == CONNECTING ? entry->deadline : deadline_of(entry);
    if (entry->untuned && entry->state == MOVING) tune(pump, entry);
    if (deadline > pump->now) set_deadline(pump, entry, deadline);
    else if (entry->state == CONNECTING) finish(pump, entry, PUMP_CONNECT_TIMEOUT, ETIMEDOUT);
    else if (entry->lingering) finish(pump, entry, entry->end, entry->error);
    else {
      bool half = half_closed(entry) && deadline == entry->last_byte_at + entry->half_closed_ms;
      finish(pump, entry, half ? PUMP_HALF_CLOSED : PUMP_IDLE, 0);
    }
  }
}
