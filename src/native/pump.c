/* What the thread that started the pump calls. */
#define _GNU_SOURCE
#include "pumpInside.h"
#include <errno.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

uint64_t clock_ms(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

struct entry *entry_of(const struct pump *pump, uint32_t id) {
  return &atomic_load_explicit(&pump->chunks[id / CHUNK_ENTRIES], memory_order_acquire)->entries[id % CHUNK_ENTRIES];
}

void wake(struct pump *pump) {
  uint64_t one = 1;
  while (write(pump->wake, &one, sizeof one) < 0 && errno == EINTR) {
  }
}

static struct pump *fail(struct pump *pump, int error) {
  if (pump->wake >= 0) close(pump->wake);
  if (pump->epoll >= 0) close(pump->epoll);
  pthread_mutex_destroy(&pump->lock);
  free(pump);
  errno = error;
  return NULL;
}

struct pump *pump_start(uint32_t pipes_max, void (*ended)(void *), void *context) {
  struct pump *pump = calloc(1, sizeof *pump);
  if (pump == NULL) return NULL;
  pthread_mutex_init(&pump->lock, NULL);
  pump->on_ended = ended;
  pump->context = context;
  pump->pipes_max = pipes_max;
  pump->added_tail = &pump->added;
  pump->ended_tail = &pump->ended;
  pump->accepted_tail = &pump->accepted;
  for (int i = 0; i < PUMP_LISTENERS_MAX; i++) pump->listeners[i].fd = -1;
  pump->ready.ready_next = pump->ready.ready_previous = &pump->ready;
  pump->ready_bulk.ready_next = pump->ready_bulk.ready_previous = &pump->ready_bulk;
  pump->now = clock_ms();
  pump->wake = -1;
  pump->epoll = epoll_create1(EPOLL_CLOEXEC);
  if (pump->epoll < 0) return fail(pump, errno);
  pump->wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  if (pump->wake < 0) return fail(pump, errno);
  struct epoll_event event = {.events = EPOLLIN, .data.u64 = WAKE};
  if (epoll_ctl(pump->epoll, EPOLL_CTL_ADD, pump->wake, &event) != 0) return fail(pump, errno);

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
  entry->losing = entry->lingering = entry->untuned = false;
  for (int i = 0; i < 2; i++) {
    entry->flow[i] = (struct flow){.moved = heads[i].length, .held = held[i], .pipe.out = -1};
  }

  uint32_t id = entry->id; /* the entry is the pump's once the order is given */
  pthread_mutex_lock(&pump->lock);
  add_order(pump, entry);
  return id;
}

bool pump_knows(const struct pump *pump, uint32_t id) {
  return id < atomic_load_explicit(&pump->chunk_count, memory_order_acquire) * CHUNK_ENTRIES;
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
  pump->called = false;
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
    pump->listeners[number].is_paced = is_paced(listening->fd);
    if (listening->is_near && pump->listeners[number].is_paced) do_not_pace(listening->fd);
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
  pthread_mutex_lock(&pump->lock);
  pump->dial_options = *options;
  pump->listening_changed = true;
  pthread_mutex_unlock(&pump->lock);
  wake(pump);
}

size_t pump_take_accepted(struct pump *pump, struct pump_accepted *out, size_t count) {
  size_t taken = 0;
  pthread_mutex_lock(&pump->lock);
  pump->called = false;
  while (taken < count && pump->accepted != NULL) {
    struct entry *entry = pump->accepted;
    pump->accepted = entry->next_added;
    if (pump->accepted == NULL) pump->accepted_tail = &pump->accepted;
    entry->is_asked = true;
    out[taken] = described(entry);
    out[taken].is_own = entry->is_own;
    out[taken++].open = atomic_load_explicit(&pump->listeners[entry->listener].open, memory_order_relaxed);
  }
  pthread_mutex_unlock(&pump->lock);
  return taken;
}

int pump_take_route(struct pump *pump, uint32_t id, const struct pump_route *route) {
  struct entry *entry = entry_of(pump, id);
  if (!entry->is_asked) return -EINVAL;
  entry->is_asked = false;
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
  return 0;
}

int pump_release(struct pump *pump, uint32_t id) {
  struct entry *entry = entry_of(pump, id);
  if (!entry->is_asked) return -EINVAL;
  entry->is_asked = false;
  int fd = entry->fd[0];
  entry->fd[0] = -1;
  pthread_mutex_lock(&pump->lock);
  forget_told(entry);
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

struct pump_totals pump_total(const struct pump *pump, int listener) {
  struct pump_totals totals = {0};
  uint32_t end = atomic_load_explicit(&pump->chunk_count, memory_order_acquire) * CHUNK_ENTRIES;
  for (uint32_t id = 0; id < end; id++) {
    const struct entry *entry = entry_of(pump, id);
    if (!atomic_load_explicit(&entry->listed, memory_order_acquire) || entry->listener != listener) continue;
    totals.open++;
    totals.sent += atomic_load_explicit(&entry->flow[0].moved, memory_order_relaxed);
    totals.received += atomic_load_explicit(&entry->flow[1].moved, memory_order_relaxed);
  }
  return totals;
}

void pump_stop(struct pump *pump) {
  pthread_mutex_lock(&pump->lock);
  pump->stopping = true;
  pthread_mutex_unlock(&pump->lock);
  wake(pump);
  pthread_join(pump->thread, NULL);
  for (uint32_t id = 0; pump_knows(pump, id); id++) {
    if (entry_of(pump, id)->is_asked) close(entry_of(pump, id)->fd[0]); /* nobody answered */
  }
  close(pump->wake);
  close(pump->epoll);
  pthread_mutex_destroy(&pump->lock);
  for (uint32_t i = 0; i < pump->chunk_count; i++) free(pump->chunks[i]);
  free(pump);
}

