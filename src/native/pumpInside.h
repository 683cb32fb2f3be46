/*
 * Inside the pump: one thread, one epoll, and splice(2) for whoever sends much.
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
 * decides. A stale event can thus cost a system call but never do harm; one for an entry's connection before is told
 * by `life`, since a descriptor that was closed stays watched while a duplicate of it is open, as in a child just forked.
 */
#ifndef SLUICE_PUMP_INSIDE_H
#define SLUICE_PUMP_INSIDE_H

#include "pump.h"
#include <pthread.h>
#include <stdatomic.h>
#include <sys/types.h>

enum {
  SCRATCH_BYTES = 64 * 1024,      /* a full one is what tells bulk from messages */
  BULK_BYTES_MIN = 16 * 1024,     /* a splice that finds less goes back to recv */
  PIPE_BYTES = 1024 * 1024,       /* the most an unprivileged process may ask for (fs.pipe-max-size) */
  TURN_BYTES_MAX = 4096 * 1024,   /* what one direction may move before the others have their turn */
  SPARE_PIPES_MAX = 256,          /* empty pipes kept for the next who needs one */
  SPARE_PIPES_MS = 1000,          /* ... until nobody has for so long */
  LINGER_MS = 200,                /* as in net/relay.ts: for the last bytes to leave before a reset */
  EVENTS_MAX = 256,
  CHUNK_ENTRIES = 256,
  ROUTES_MAX = 1024,              /* a power of two; others are asked about again */
  ROUTE_PROBES_MAX = 8,
  ACCEPTS_MAX = 64,               /* in one turn, before others have theirs */
  NO_DESCRIPTOR_PAUSE_MS = 50,
  REPORT_DELAY_MS = 50,           /* ends of routed connections wait so long for others: waking the caller costs more */
  REPORT_ENTRIES_MAX = 256,       /* ... or until there are so many */
  TUNE_AFTER_MS = 1000,           /* who is gone before that needs no dead-peer detection, nor its five system calls */
  CHUNKS_MAX = 4096,              /* a million connections, more than a process has descriptors for */
};

#define WAKE UINT64_MAX
#define LISTENER (UINT64_C(1) << 62) /* plus its number */
/* Of a connection's event: the side, the id, and which of the connections that had this id it is. */
#define EVENT_OF(entry, side) ((uint64_t)((entry)->life & 0x1fffffff) << 33 | (uint64_t)(entry)->id << 1 | (uint64_t)(side))

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
  bool is_paced;    /* what it accepts, unless told otherwise, and so what we dial */
  _Atomic uint32_t open;
  bool stop;
  uint32_t burst; /* the pump's thread's: how many to accept at once */
  uint64_t full_round; /* when as many came the last time */
};

enum state { MOVING, WAITING, CONNECTING }; /* WAITING: for the caller's answer, in the caller's hands */

struct entry {
  uint32_t id;
  uint32_t life; /* how often the entry was watched: an event of an earlier connection is told by it */
  enum state state;
  int listener; /* -1: from pump_add */
  struct pump_address peer, destination, upstream, local; /* local: where it dialled from, if that was asked */
  bool is_own; /* one that the pump opened itself, and that was redirected to us */
  uint64_t accepted_at, ended_at;
  uint32_t tag;
  bool is_asked; /* the caller's thread's: it took it from `accepted`, and has not answered */
  _Atomic bool listed; /* runs along a route; what pump_list reads is written before this */
  int fd[2]; /* client, upstream */
  struct flow flow[2];
  uint64_t idle_ms, half_closed_ms, last_byte_at, deadline; /* deadline: the key in the heap; never too late */
  uint32_t heap_at;
  bool open, in_heap, untuned, losing, lingering; /* untuned: it dialled; losing: one side is lost; lingering: and the other must be told, soon */
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
  bool called;         /* on_ended was called, and nothing was taken since */
  uint32_t unreported; /* entries on `ended` since the last call */
  struct pump_dial_options dial_options;
  int listener_count;
  struct listener listeners[PUMP_LISTENERS_MAX];
  struct route_entry routes[ROUTES_MAX];
  struct chunk *_Atomic chunks[CHUNKS_MAX];
  _Atomic uint32_t chunk_count;

  /* From here on the pump's thread's alone. */
  uint64_t now, round;
  uint64_t report_at; /* when the caller is to hear of ended connections; 0: it knows of all */
  uint64_t accept_again_at; /* when descriptors ran out; 0: accepting */
  struct entry ready, ready_bulk; /* only their rings */
  uint64_t moved; /* bytes, in all */
  uint32_t heap_count;
  struct pipe spare[SPARE_PIPES_MAX];
  uint32_t spare_count, pipes_open, pipes_max;
  uint64_t drop_pipes_at; /* when the spare ones are closed; 0: there are none */
  struct pump_dial_options dial; /* those of dial_options */
  bool asks_kernel;             /* some listener takes what is redirected, so that our own connections could come back */
  uint32_t dialled[UINT16_MAX + 1]; /* by local port: the id, plus 1, of the connection that dialled last from it */
  uint8_t scratch[SCRATCH_BYTES];
};

/* What came of a step of moving bytes. */
enum step {
  STEP_ON,        /* done with this step, take the next */
  STEP_WAIT,      /* an event must come first */
  STEP_FROM_LOST, /* errno says why */
  STEP_TO_LOST,
  STEP_FAILED,
};

/* pump.c */
uint64_t clock_ms(void);
struct entry *entry_of(const struct pump *pump, uint32_t id);
void wake(struct pump *pump);

/* pumpTimers.c */
bool half_closed(const struct entry *entry);
uint64_t next_look(const struct entry *entry);
void set_deadline(struct pump *pump, struct entry *entry, uint64_t deadline); /* UINT64_MAX: none */
void heap_remove(struct pump *pump, struct entry *entry);
struct entry **heap_place(struct pump *pump, uint32_t at);
void expire(struct pump *pump);

/* pumpMove.c */
struct held *hold(const void *data, size_t length);
enum step move(struct pump *pump, struct entry *entry, int i, size_t turn_bytes);
void return_pipe(struct pump *pump, struct flow *flow);
void close_spare_pipes(struct pump *pump);

/* pumpEntries.c */
void make_ready(struct pump *pump, struct entry *entry, bool is_bulk);
void not_ready(struct entry *entry);
void take_turns(struct pump *pump);
struct entry *take_unused(struct pump *pump);
void report(struct pump *pump);
void finish(struct pump *pump, struct entry *entry, enum pump_end end, int error);

/* pumpAccept.c */
void set_option(int fd, int level, int name, uint32_t value);
bool is_paced(int fd);
void do_not_pace(int fd);
void tune(struct pump *pump, struct entry *entry);
void begin(struct pump *pump, struct entry *entry);
struct route_entry *find_route(struct pump *pump, const struct entry *entry, bool make);
bool known_route(struct pump *pump, struct entry *entry, struct pump_route *route);
void ask(struct pump *pump, struct entry *entry);
void connect_to(struct pump *pump, struct entry *entry, const struct pump_route *route);
void note_connect(struct pump *pump, struct entry *entry, int side, uint32_t events);
void accept_some(struct pump *pump, int listener);
void accept_again(struct pump *pump, uint64_t at);
void watch_listeners(struct pump *pump);

/* pumpLoop.c */
void forget_told(struct entry *entry);
void *run(void *pump);

#endif
