/* The pump's thread: one epoll. */
#define _GNU_SOURCE
#include "pumpInside.h"
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

/* Takes an entry off the list of those to close. */
void forget_told(struct entry *entry) {
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
  if (!entry->open || event->data.u64 != EVENT_OF(entry, side)) return;
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
  make_ready(pump, entry, entry->flow[0].bulk || entry->flow[1].bulk);
}

static int milliseconds_to_wait(struct pump *pump) {
  if (pump->ready.ready_next != &pump->ready || pump->ready_bulk.ready_next != &pump->ready_bulk) return 0;
  uint64_t deadline = pump->heap_count > 0 ? (*heap_place(pump, 0))->deadline : UINT64_MAX;
  if (pump->accept_again_at != 0 && pump->accept_again_at < deadline) deadline = pump->accept_again_at;
  if (pump->report_at != 0 && pump->report_at < deadline) deadline = pump->report_at;
  if (pump->drop_pipes_at != 0 && pump->drop_pipes_at < deadline) deadline = pump->drop_pipes_at;
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
  close_spare_pipes(pump);
}

void *run(void *argument) {
  struct pump *pump = argument;
  struct epoll_event events[EVENTS_MAX];
  for (bool going = true; going;) {
    int count = epoll_wait(pump->epoll, events, EVENTS_MAX, milliseconds_to_wait(pump));
    pump->now = clock_ms();
    pump->round++;
    bool orders = false;
    uint64_t accept_from = 0;
    for (int i = 0; i < count; i++) {
      if (events[i].data.u64 == WAKE) orders = true;
      else if (events[i].data.u64 >= LISTENER) accept_from |= UINT64_C(1) << (events[i].data.u64 - LISTENER);
      else note_event(pump, &events[i]);
    }
    take_turns(pump);
    expire(pump);
    for (int i = 0; accept_from != 0; i++, accept_from >>= 1) {
      if (accept_from & 1) accept_some(pump, i);
    }
    if (pump->accept_again_at != 0 && pump->accept_again_at <= pump->now) accept_again(pump, 0);
    if (pump->report_at != 0 && pump->report_at <= pump->now) report(pump);
    if (pump->drop_pipes_at != 0 && pump->drop_pipes_at <= pump->now) close_spare_pipes(pump);
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

