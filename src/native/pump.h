/*
 * The pump: moves the bytes of opaque connections between two sockets, on a thread of its own.
 *
 * A connection handed over with pump_add belongs to the pump, descriptors and all, until pump_take_ended returns its id.
 * Every function is for the one thread that started the pump; they never block. This file and pump.c know nothing
 * of Node: test/native/ drives them from C, under the sanitizers.
 */
#ifndef SLUICE_PUMP_H
#define SLUICE_PUMP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct pump;

/* Why a connection ended. pump.ts holds the same numbers. */
enum pump_end {
  PUMP_CLOSED = 0,       /* both sides said goodbye */
  PUMP_CLIENT_LOST = 1,  /* reset, or the network gave up on it: `error` says which */
  PUMP_UPSTREAM_LOST = 2,
  PUMP_IDLE = 3,         /* not a byte in either direction for idle_ms */
  PUMP_HALF_CLOSED = 4,  /* one side said goodbye, and not a byte for half_closed_ms */
  PUMP_TOLD = 5,         /* pump_tell_close, or pump_stop */
  PUMP_FAILED = 6,       /* we ran out of something: `error` says of what */
  PUMP_NOT_CONNECTED = 7, /* the upstream refused: `error` says how */
  PUMP_CONNECT_TIMEOUT = 8,
  PUMP_CLIENT_GONE = 9,  /* before the upstream had answered */
};

struct pump_bytes {
  const void *data;
  size_t length;
};

struct pump_connection {
  int client, upstream;               /* connected stream sockets, non-blocking */
  struct pump_bytes to_client;        /* read from the other side already; goes out first. Copied. */
  struct pump_bytes to_upstream;
  uint64_t idle_ms, half_closed_ms;   /* 0: without limit */
};

/* An IPv4 (mapped) or IPv6 address and a port; family 0: not known. */
struct pump_address {
  uint8_t ip[16];
  uint16_t port;
  uint8_t family; /* 0, 4 or 6 */
};

/* What connections of one kind need no question for: where they go, and for how long. */
struct pump_route {
  struct pump_address upstream;
  uint64_t idle_ms, half_closed_ms, connect_ms;
  uint32_t tag;        /* not 0; the caller's own name for it */
  uint32_t good_ms;    /* from now: then the next such connection is asked about again */
  bool is_near;        /* the upstream is on this machine */
};

/* What the kernel is told about every socket that the pump opens. */
struct pump_dial_options {
  uint32_t mark, user_timeout_ms, keepalive_s; /* 0: leave it */
};

struct pump_listening {
  int fd;                          /* listening, non-blocking; the pump closes it */
  struct pump_address destination; /* where its connections go; family 0: ask the kernel for the original one */
  uint32_t connections_max;
  bool is_near; /* who calls is on this machine */
};

/* An accepted connection: about which the caller is asked, or which runs along a route. */
struct pump_accepted {
  uint32_t id, listener, open; /* open: connections of this listener, itself included */
  uint32_t tag;                /* of its route; 0 for one that waits for an answer */
  struct pump_address peer, destination;
  bool is_own; /* the pump dialled it itself: a loop */
  uint64_t age_ms;
};

struct pump_ended {
  struct pump_accepted accepted; /* its tag is 0 for connections of pump_add */
  uint32_t id;
  uint32_t end;   /* enum pump_end */
  uint64_t lasted_ms; /* of accepted ones: until the end, which may be a while before the report */
  int error;      /* errno, or 0 */
  uint64_t sent;  /* client to upstream, the bytes handed over included */
  uint64_t received;
};

/*
 * Starts the thread. At most `pipes_max` pipes are open at a time; connections that find none are copied instead.
 * `ended(context)` is called on the pump's thread when there is something to take, by pump_take_ended or
 * pump_take_accepted; not again before one of them is called. Ends of connections on routes may be told some
 * milliseconds late, many at once.
 * NULL, with errno, when the system refuses.
 */
struct pump *pump_start(uint32_t pipes_max, void (*ended)(void *context), void *context);

/* Hands a connection over and returns its id, or minus errno: then the descriptors are still the caller's. */
int64_t pump_add(struct pump *pump, const struct pump_connection *connection);

/* Whether the id was ever given to a connection. Every id that other functions are given must be such a one. */
bool pump_knows(const struct pump *pump, uint32_t id);

/* The bytes that passed so far. The id must not have been taken by pump_take_ended. */
void pump_count(const struct pump *pump, uint32_t id, uint64_t *sent, uint64_t *received);

/* Ends a connection now; it is reported as PUMP_TOLD unless it ended by itself before. */
void pump_tell_close(struct pump *pump, uint32_t id);

/* Takes up to `count` ended connections. Their ids may be given to others from now on. */
size_t pump_take_ended(struct pump *pump, struct pump_ended *out, size_t count);

/* ---- accepting ---- */

enum { PUMP_LISTENERS_MAX = 64 };

/* Accepts connections from now on: returns a number for the listener, or -1 when there are too many. */
int pump_listen(struct pump *pump, const struct pump_listening *listening);

/* Closes a listening socket; its connections live on. */
void pump_stop_listening(struct pump *pump, int listener);

void pump_set_dial_options(struct pump *pump, const struct pump_dial_options *options);

/* Takes up to `count` connections that no route was known for. `ended` is called for these, too. Each waits until: */
size_t pump_take_accepted(struct pump *pump, struct pump_accepted *out, size_t count);

/* - either it takes this route, and with it all that come after it from the same peer to the same destination; 0, or
     minus EINVAL when the connection does not wait for an answer, */
int pump_take_route(struct pump *pump, uint32_t id, const struct pump_route *route);

/* - or the caller takes its descriptor (or gets minus EINVAL), and says later that the listener has one connection less. */
int pump_release(struct pump *pump, uint32_t id);
void pump_left(struct pump *pump, int listener);

/* Forgets all routes: whoever comes next is asked about. */
void pump_forget_routes(struct pump *pump);

/* Lists connections that run along routes, from place `*from` on, which is moved; 0 at the end. */
size_t pump_list(const struct pump *pump, uint32_t *from, struct pump_accepted *out, size_t count);

/* Adds up the connections of a listener that run along routes, those included whose end was not taken yet. */
struct pump_totals {
  uint32_t open;
  uint64_t sent, received;
};
struct pump_totals pump_total(const struct pump *pump, int listener);

/* Closes what is open, ends the thread and frees everything. `ended` is not called any more once this returns. */
void pump_stop(struct pump *pump);

#endif
