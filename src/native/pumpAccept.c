/* Connections that the pump accepts, and connects by itself where the caller has said where to. */
#define _GNU_SOURCE
#include "pumpInside.h"
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

enum { ORIGINAL_DST = 80 }; /* SO_ORIGINAL_DST and IP6T_SO_ORIGINAL_DST, from headers that clash with netinet/in.h. */

void set_option(int fd, int level, int name, uint32_t value) {
  setsockopt(fd, level, name, &value, sizeof value); /* what cannot be set leaves the default: no reason to give up */
}

/*
 * Where the system's congestion control is BBR, each 64 KiB wait for a timer, whose interrupt costs more than moving
 * them does. Between two sockets of one machine there is no path to be gentle to.
 */
bool is_paced(int fd) {
  char name[16] = "";
  socklen_t length = sizeof name;
  return getsockopt(fd, IPPROTO_TCP, TCP_CONGESTION, name, &length) == 0 && strncmp(name, "bbr", 3) == 0;
}

/* Before it is connected: what was paced once stays so. Reno is always there. */
void do_not_pace(int fd) { setsockopt(fd, IPPROTO_TCP, TCP_CONGESTION, "reno", 4); }

static bool watch(struct pump *pump, struct entry *entry) {
  entry->life++;
  for (int i = 0; i < 2; i++) {
    /* The urgent byte travels as an ordinary one, in its place: dropping it, as is the default, would lose a byte.
       Accepted sockets have this from their listener. */
    if (i == 1 || entry->listener < 0) set_option(entry->fd[i], SOL_SOCKET, SO_OOBINLINE, 1);
    struct epoll_event event = {
      .events = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLPRI | EPOLLET,
      .data.u64 = EVENT_OF(entry, i),
    };
    if (epoll_ctl(pump->epoll, EPOLL_CTL_ADD, entry->fd[i], &event) != 0) {
      finish(pump, entry, PUMP_FAILED, errno);
      return false;
    }
  }
  return true;
}

void begin(struct pump *pump, struct entry *entry) {
  entry->open = true;
  entry->last_byte_at = pump->now;
  if (watch(pump, entry)) set_deadline(pump, entry, next_look(entry));
}

/* Dead-peer detection towards the upstream, for a connection that has lived a moment. The client's is its listener's. */
void tune(struct pump *pump, struct entry *entry) {
  const struct pump_dial_options *dial = &pump->dial;
  entry->untuned = false;
  if (dial->user_timeout_ms != 0) set_option(entry->fd[1], IPPROTO_TCP, TCP_USER_TIMEOUT, dial->user_timeout_ms);
  if (dial->keepalive_s == 0) return;
  set_option(entry->fd[1], IPPROTO_TCP, TCP_KEEPIDLE, dial->keepalive_s);
  set_option(entry->fd[1], IPPROTO_TCP, TCP_KEEPINTVL, dial->keepalive_s);
  set_option(entry->fd[1], IPPROTO_TCP, TCP_KEEPCNT, 3);
  set_option(entry->fd[1], SOL_SOCKET, SO_KEEPALIVE, 1);
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
struct route_entry *find_route(struct pump *pump, const struct entry *entry, bool make) {
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
bool known_route(struct pump *pump, struct entry *entry, struct pump_route *route) {
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

void ask(struct pump *pump, struct entry *entry) {
  entry->state = WAITING;
  pthread_mutex_lock(&pump->lock);
  entry->next_added = NULL;
  *pump->accepted_tail = entry;
  pump->accepted_tail = &entry->next_added;
  pthread_mutex_unlock(&pump->lock);
  report(pump);
}

void connect_to(struct pump *pump, struct entry *entry, const struct pump_route *route) {
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
  set_option(fd, IPPROTO_TCP, TCP_NODELAY, 1);
  if (pump->dial.mark != 0) set_option(fd, SOL_SOCKET, SO_MARK, pump->dial.mark);
  if (route->is_near && pump->listeners[entry->listener].is_paced) do_not_pace(fd);
  entry->untuned = pump->dial.user_timeout_ms != 0 || pump->dial.keepalive_s != 0;
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
void note_connect(struct pump *pump, struct entry *entry, int side, uint32_t events) {
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
  set_deadline(pump, entry, next_look(entry));
}

static void accepted(struct pump *pump, int listener, int fd, const struct sockaddr_storage *from) {
  struct listener *of = &pump->listeners[listener];
  struct entry *entry = take_unused(pump);
  if (entry == NULL) {
    struct linger now = {.l_onoff = 1, .l_linger = 0};
    setsockopt(fd, SOL_SOCKET, SO_LINGER, &now, sizeof now);
    close(fd);
    return;
  }
  entry->fd[0] = fd;
  entry->fd[1] = -1;
  entry->listener = listener;
  entry->tag = 0;
  entry->losing = entry->lingering = entry->untuned = false;
  entry->accepted_at = pump->now;
  for (int i = 0; i < 2; i++) entry->flow[i] = (struct flow){.pipe.out = -1};
  entry->peer = from_sockaddr(from);
  entry->local = (struct pump_address){.family = 0};
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

/* Accepts nothing until then; at once when it is 0. */
void accept_again(struct pump *pump, uint64_t at) {
  pump->accept_again_at = at;
  pthread_mutex_lock(&pump->lock);
  watch_listeners(pump);
  pthread_mutex_unlock(&pump->lock);
}

/*
 * Level-triggered: what is not accepted now is announced again. So it need not go on until there is nothing left, which
 * would cost a call for nothing each time: it accepts as many as there were the last time, and more if all came and the
 * next round finds others.
 */
void accept_some(struct pump *pump, int listener) {
  struct listener *of = &pump->listeners[listener];
  uint32_t wanted = of->burst > 0 ? of->burst : 1, came = 0;
  while (came < wanted) {
    struct sockaddr_storage from = {0};
    socklen_t length = sizeof from;
    int fd = accept4(of->fd, (struct sockaddr *)&from, &length, SOCK_NONBLOCK | SOCK_CLOEXEC);
    if (fd >= 0) {
      came++;
      accepted(pump, listener, fd, &from);
      continue;
    }
    int error = errno;
    if (error == EMFILE || error == ENFILE || error == ENOBUFS || error == ENOMEM) {
      accept_again(pump, pump->now + NO_DESCRIPTOR_PAUSE_MS);
    }
    if (error != ECONNABORTED && error != EINTR) break;
  }
  bool is_more = came == wanted && of->full_round + 1 == pump->round && came < ACCEPTS_MAX;
  of->burst = is_more ? 2 * came : came;
  if (came == wanted) of->full_round = pump->round;
}

/* Under the lock. Makes epoll watch the listeners as they should be now. */
void watch_listeners(struct pump *pump) {
  pump->dial = pump->dial_options;
  uint32_t events = pump->accept_again_at == 0 ? EPOLLIN : 0;
  for (int i = 0; i < PUMP_LISTENERS_MAX; i++) {
    struct listener *listener = &pump->listeners[i];
    if (listener->fd < 0) continue;
    if (listener->stop) {
      epoll_ctl(pump->epoll, EPOLL_CTL_DEL, listener->fd, NULL); /* a duplicate may live longer */
      close(listener->fd);
      listener->fd = -1;
      continue;
    }
    if (listener->about.destination.family == 0) pump->asks_kernel = true;
    struct epoll_event event = {.events = events, .data.u64 = LISTENER + (uint64_t)i};
    if (epoll_ctl(pump->epoll, EPOLL_CTL_MOD, listener->fd, &event) != 0 &&
        epoll_ctl(pump->epoll, EPOLL_CTL_ADD, listener->fd, &event) != 0) {
      pump->accept_again_at = pump->now + NO_DESCRIPTOR_PAUSE_MS; /* or it would be deaf for ever */
    }
  }
}

