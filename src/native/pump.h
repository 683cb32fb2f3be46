/*
 * The pump: moves the bytes of opaque connections between two sockets, on a thread of its own.
 *
 * A connection handed over with pump_add belongs to the pump, descriptors and all, until pump_take_ended returns its id.
 * Every function is for the one thread that started the pump; they never block. This file and pump.c know nothing
 * of Node: test/native/ drives them from C, under the sanitizers.
 */
#ifndef SLUICE_PUMP_H
#define SLUICE_PUMP_H

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

struct pump_ended {
  uint32_t id;
  uint32_t end;   /* enum pump_end */
  int error;      /* errno, or 0 */
  uint64_t sent;  /* client to upstream, the bytes handed over included */
  uint64_t received;
};

/*
 * Starts the thread. At most `pipes_max` pipes are open at a time; connections that find none are copied instead.
 * `ended(context)` is called on the pump's thread when pump_take_ended has something to give and had nothing before.
 * NULL, with errno, when the system refuses.
 */
struct pump *pump_start(uint32_t pipes_max, void (*ended)(void *context), void *context);

/* Hands a connection over and returns its id, or minus errno: then the descriptors are still the caller's. */
int64_t pump_add(struct pump *pump, const struct pump_connection *connection);

/* The bytes that passed so far. The id must not have been taken by pump_take_ended. */
void pump_count(const struct pump *pump, uint32_t id, uint64_t *sent, uint64_t *received);

/* Ends a connection now; it is reported as PUMP_TOLD unless it ended by itself before. */
void pump_tell_close(struct pump *pump, uint32_t id);

/* Takes up to `count` ended connections. Their ids may be given to others from now on. */
size_t pump_take_ended(struct pump *pump, struct pump_ended *out, size_t count);

/* Closes what is open, ends the thread and frees everything. `ended` is not called any more once this returns. */
void pump_stop(struct pump *pump);

#endif
