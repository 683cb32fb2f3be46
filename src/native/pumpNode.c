/*
 * The pump's face towards Node: one pump a JavaScript thread, started by pumpStart and stopped with the thread.
 *
 * Numbers below zero are minus errno, as everywhere in the addon. pump.ts is the only caller.
 */
#define _GNU_SOURCE
#include "addon.h"
#include "pump.h"
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct instance {
  struct pump *pump;
  napi_threadsafe_function ended;
};

/*
 * What is said of a connection in a Float64Array: id, listener, open, tag, the peer's port, the destination's, age in
 * ms; and of one that ended, how long it lasted in place of open, and then: end, error, sent, received. The hosts go
 * into an array beside it, two a connection.
 */
enum { ROW = 11, ROWS_MAX = 256 };

#define MS_MAX (UINT64_C(1) << 40) /* 35 years: added to a clock it stays far from the end of the numbers */

/* The pump, and `count` arguments; NULL, with an Error thrown, when there are none. */
static struct instance *called(napi_env env, napi_callback_info info, size_t count, napi_value *argv) {
  void *data = NULL;
  napi_get_instance_data(env, &data);
  struct instance *instance = data;
  if (instance == NULL || instance->pump == NULL) {
    napi_throw_error(env, NULL, "pumpStart first");
    return NULL;
  }
  return arguments(env, info, count, argv) ? instance : NULL;
}

/* ---- what the arguments say; false, with a TypeError thrown, when they do not ---- */

static bool wrong(napi_env env, const char *what) {
  napi_throw_type_error(env, NULL, what);
  return false;
}

/* Whole numbers up to `max`; what is greater is taken for `max`. */
static bool wholes(napi_env env, const napi_value *values, size_t count, uint64_t max, uint64_t *out) {
  for (size_t i = 0; i < count; i++) {
    double value;
    if (napi_get_value_double(env, values[i], &value) != napi_ok || !(value >= 0)) return wrong(env, "not a number from 0");
    out[i] = value >= (double)max ? max : (uint64_t)value;
  }
  return true;
}

static bool id_of(napi_env env, const struct pump *pump, napi_value value, uint32_t *id) {
  return (napi_get_value_uint32(env, value, id) == napi_ok && pump_knows(pump, *id)) || wrong(env, "no such connection");
}

static bool listener_of(napi_env env, napi_value value, int32_t *listener) {
  return (napi_get_value_int32(env, value, listener) == napi_ok && *listener >= 0 && *listener < PUMP_LISTENERS_MAX) ||
         wrong(env, "no such listener");
}

/* The bytes of a Buffer, which must stay as it is for the call; none when it is undefined. */
static bool bytes_of(napi_env env, napi_value value, struct pump_bytes *out) {
  napi_valuetype type;
  void *data = NULL;
  *out = (struct pump_bytes){NULL, 0};
  if (napi_typeof(env, value, &type) == napi_ok && type == napi_undefined) return true;
  if (napi_get_buffer_info(env, value, &data, &out->length) != napi_ok) return wrong(env, "not a Buffer");
  out->data = data;
  return true;
}

/* Family 0 when the host is ''. */
static bool address_of(napi_env env, napi_value host, napi_value port, struct pump_address *out) {
  static const uint8_t mapped[12] = {[10] = 0xff, [11] = 0xff};
  char text[INET6_ADDRSTRLEN + 1];
  size_t length;
  uint64_t number;
  *out = (struct pump_address){.family = 0};
  if (napi_get_value_string_latin1(env, host, text, sizeof text, &length) != napi_ok) return wrong(env, "not a host");
  if (!wholes(env, &port, 1, UINT16_MAX, &number)) return false;
  out->port = (uint16_t)number;
  if (length == 0) return true;
  if (inet_pton(AF_INET, text, out->ip + 12) == 1) {
    memcpy(out->ip, mapped, sizeof mapped);
    out->family = 4;
    return true;
  }
  if (inet_pton(AF_INET6, text, out->ip) != 1) return wrong(env, "not an IP address"); /* a zone is none that we keep */
  out->family = memcmp(out->ip, mapped, sizeof mapped) == 0 ? 4 : 6;
  return true;
}

/* The numbers of a Float64Array that has room for `count` of them. */
static double *room_for(napi_env env, napi_value value, size_t count) {
  napi_typedarray_type type;
  size_t length;
  void *data;
  if (napi_get_typedarray_info(env, value, &type, &length, &data, NULL, NULL) == napi_ok &&
      type == napi_float64_array && length >= count) {
    return data;
  }
  wrong(env, "the Float64Array is too small");
  return NULL;
}

/* ---- its life ---- */

/* On the pump's thread. Many ends make one call: pump.c is silent until pump_take_ended has emptied the list. */
static void on_ended(void *context) {
  struct instance *instance = context;
  napi_call_threadsafe_function(instance->ended, NULL, napi_tsfn_nonblocking);
}

/* Before Node takes away the function that the pump's thread calls. */
static void on_cleanup(void *context) {
  struct instance *instance = context;
  pump_stop(instance->pump);
  instance->pump = NULL;
}

static void free_instance(napi_env env, void *data, void *hint) {
  (void)env;
  (void)hint;
  free(data);
}

/* pumpStart(pipesMax, ended): 0 or minus errno. */
static napi_value start(napi_env env, napi_callback_info info) {
  napi_value argv[2], name;
  uint32_t pipes_max;
  void *before = NULL;
  if (!arguments(env, info, 2, argv)) return NULL;
  napi_get_instance_data(env, &before);
  if (before != NULL) return number(env, -EALREADY);
  if (napi_get_value_uint32(env, argv[0], &pipes_max) != napi_ok) return number(env, -EINVAL);

  struct instance *instance = calloc(1, sizeof *instance);
  if (instance == NULL) return number(env, -ENOMEM);
  if (napi_create_string_latin1(env, "sluice pump", NAPI_AUTO_LENGTH, &name) != napi_ok ||
      napi_create_threadsafe_function(env, argv[1], NULL, name, 0, 1, NULL, NULL, NULL, NULL, &instance->ended) !=
        napi_ok) {
    free(instance);
    return number(env, -EINVAL);
  }
  napi_unref_threadsafe_function(env, instance->ended); /* only open connections keep the process: pumpHold */
  instance->pump = pump_start(pipes_max, on_ended, instance);
  int error = instance->pump != NULL ? 0 : errno;
  /* Node runs these last one first: the pump stops before its function goes. */
  if (error == 0 && napi_add_env_cleanup_hook(env, on_cleanup, instance) != napi_ok) error = ENOMEM;
  if (error == 0 && napi_set_instance_data(env, instance, free_instance, NULL) != napi_ok) {
    napi_remove_env_cleanup_hook(env, on_cleanup, instance);
    error = ENOMEM;
  }
  if (error == 0) return number(env, 0);
  if (instance->pump != NULL) pump_stop(instance->pump);
  napi_release_threadsafe_function(instance->ended, napi_tsfn_abort);
  free(instance);
  return number(env, -error);
}

/* pumpHold(hold): whether the pump keeps the process alive, as open sockets do. */
static napi_value hold_process(napi_env env, napi_callback_info info) {
  napi_value argv[1];
  bool hold;
  struct instance *instance = called(env, info, 1, argv);
  if (instance == NULL) return NULL;
  if (napi_get_value_bool(env, argv[0], &hold) != napi_ok) wrong(env, "not a boolean");
  else if (hold) napi_ref_threadsafe_function(env, instance->ended);
  else napi_unref_threadsafe_function(env, instance->ended);
  return NULL;
}

/* ---- connections of Node's ---- */

/*
 * pumpAdd(clientFd, upstreamFd, toClient, toUpstream, idleMs, halfClosedMs): the id, or minus errno.
 * The pump gets duplicates: Node's own descriptors stay Node's to close, and closing them ends nothing.
 */
static napi_value add(napi_env env, napi_callback_info info) {
  napi_value argv[6];
  int32_t fd[2];
  uint64_t limits[2];
  struct pump_connection connection;
  struct instance *instance = called(env, info, 6, argv);
  if (instance == NULL) return NULL;
  for (int i = 0; i < 2; i++) {
    if (napi_get_value_int32(env, argv[i], &fd[i]) != napi_ok) return wrong(env, "not a descriptor"), NULL;
  }
  if (!bytes_of(env, argv[2], &connection.to_client) || !bytes_of(env, argv[3], &connection.to_upstream) ||
      !wholes(env, argv + 4, 2, MS_MAX, limits)) {
    return NULL;
  }
  connection.idle_ms = limits[0];
  connection.half_closed_ms = limits[1];
  connection.client = fcntl(fd[0], F_DUPFD_CLOEXEC, 0);
  if (connection.client < 0) return number(env, -errno);
  connection.upstream = fcntl(fd[1], F_DUPFD_CLOEXEC, 0);
  if (connection.upstream < 0) {
    int error = errno;
    close(connection.client);
    return number(env, -error);
  }
  int64_t id = pump_add(instance->pump, &connection);
  if (id < 0) {
    close(connection.client);
    close(connection.upstream);
  }
  return number(env, id);
}

/* pumpCount(id, [sent, received]): writes the bytes so far. The id must be one that pumpTakeEnded has not given. */
static napi_value count_bytes(napi_env env, napi_callback_info info) {
  napi_value argv[2];
  uint32_t id;
  struct instance *instance = called(env, info, 2, argv);
  if (instance == NULL) return NULL;
  double *counts = room_for(env, argv[1], 2);
  if (counts == NULL || !id_of(env, instance->pump, argv[0], &id)) return NULL;
  uint64_t sent, received;
  pump_count(instance->pump, id, &sent, &received);
  counts[0] = (double)sent;
  counts[1] = (double)received;
  return NULL;
}

/* pumpClose(id): ends a connection that pumpTakeEnded has not given yet. */
static napi_value tell_close(napi_env env, napi_callback_info info) {
  napi_value argv[1];
  uint32_t id;
  struct instance *instance = called(env, info, 1, argv);
  if (instance != NULL && id_of(env, instance->pump, argv[0], &id)) pump_tell_close(instance->pump, id);
  return NULL;
}

/* ---- rows ---- */

static napi_value host_of(napi_env env, const struct pump_address *address) {
  char text[INET6_ADDRSTRLEN];
  napi_value value = NULL;
  const char *host = NULL;
  if (address->family == 4) host = inet_ntop(AF_INET, address->ip + 12, text, sizeof text);
  if (address->family == 6) host = inet_ntop(AF_INET6, address->ip, text, sizeof text);
  napi_create_string_latin1(env, host != NULL ? host : "", NAPI_AUTO_LENGTH, &value);
  return value;
}

static void write_row(napi_env env, double *row, napi_value hosts, uint32_t at, const struct pump_accepted *accepted) {
  row[0] = accepted->id;
  row[1] = accepted->listener;
  row[2] = accepted->open;
  row[3] = accepted->tag;
  row[4] = accepted->peer.port;
  row[5] = accepted->destination.port;
  row[6] = (double)accepted->age_ms;
  napi_set_element(env, hosts, 2 * at, host_of(env, &accepted->peer));
  napi_set_element(env, hosts, 2 * at + 1, host_of(env, &accepted->destination));
}

/* pumpTakeEnded(rows, hosts): how many rows were filled; hosts only for those with a tag, and only if it is an array. */
static napi_value take_ended(napi_env env, napi_callback_info info) {
  napi_value argv[2];
  bool wants_hosts;
  struct instance *instance = called(env, info, 2, argv);
  if (instance == NULL) return NULL;
  double *row = room_for(env, argv[0], ROW * ROWS_MAX);
  if (row == NULL || napi_is_array(env, argv[1], &wants_hosts) != napi_ok) return NULL;
  struct pump_ended ended[ROWS_MAX];
  size_t count = pump_take_ended(instance->pump, ended, ROWS_MAX);
  for (size_t i = 0; i < count; i++, row += ROW) {
    row[0] = ended[i].id;
    row[1] = ended[i].accepted.listener;
    row[3] = ended[i].accepted.tag;
    if (ended[i].accepted.tag != 0 && wants_hosts) write_row(env, row, argv[1], (uint32_t)i, &ended[i].accepted);
    row[2] = (double)ended[i].lasted_ms;
    row[7] = ended[i].end;
    row[8] = ended[i].error;
    row[9] = (double)ended[i].sent;
    row[10] = (double)ended[i].received;
  }
  return number(env, (int64_t)count);
}

/* pumpTakeAccepted(rows, hosts): how many rows were filled, of connections that wait for pumpTakeRoute or pumpRelease. */
static napi_value take_accepted(napi_env env, napi_callback_info info) {
  napi_value argv[2];
  struct instance *instance = called(env, info, 2, argv);
  if (instance == NULL) return NULL;
  double *row = room_for(env, argv[0], ROW * ROWS_MAX);
  if (row == NULL) return NULL;
  struct pump_accepted accepted[ROWS_MAX];
  size_t count = pump_take_accepted(instance->pump, accepted, ROWS_MAX);
  for (size_t i = 0; i < count; i++) {
    write_row(env, row + i * ROW, argv[1], (uint32_t)i, &accepted[i]);
    row[i * ROW + 7] = accepted[i].is_own;
  }
  return number(env, (int64_t)count);
}

/* pumpList(from, rows, hosts): fills rows with connections on routes; returns how many, and the next `from` in rows[0]
   of the row after the last. */
static napi_value list(napi_env env, napi_callback_info info) {
  napi_value argv[3];
  uint32_t from;
  struct instance *instance = called(env, info, 3, argv);
  if (instance == NULL) return NULL;
  double *row = room_for(env, argv[1], ROW * ROWS_MAX);
  if (row == NULL) return NULL;
  if (napi_get_value_uint32(env, argv[0], &from) != napi_ok) return wrong(env, "not a place"), NULL;
  struct pump_accepted open[ROWS_MAX - 1];
  size_t count = pump_list(instance->pump, &from, open, ROWS_MAX - 1);
  for (size_t i = 0; i < count; i++) write_row(env, row + i * ROW, argv[2], (uint32_t)i, &open[i]);
  row[count * ROW] = from;
  return number(env, (int64_t)count);
}

/* pumpTotal(listener, [open, sent, received]): writes the sums over its connections on routes. */
static napi_value total(napi_env env, napi_callback_info info) {
  napi_value argv[2];
  int32_t listener;
  struct instance *instance = called(env, info, 2, argv);
  if (instance == NULL) return NULL;
  double *sums = room_for(env, argv[1], 3);
  if (sums == NULL || !listener_of(env, argv[0], &listener)) return NULL;
  struct pump_totals totals = pump_total(instance->pump, listener);
  sums[0] = totals.open;
  sums[1] = (double)totals.sent;
  sums[2] = (double)totals.received;
  return NULL;
}

/* ---- accepting ---- */

/* pumpListen(fd, destinationHost, destinationPort, connectionsMax, isNear): a number for it, or minus errno. The host
   is '' to ask the kernel. The pump gets a duplicate of the descriptor. */
static napi_value listen_on(napi_env env, napi_callback_info info) {
  napi_value argv[5];
  int32_t fd;
  uint64_t connections_max;
  struct pump_listening listening;
  struct instance *instance = called(env, info, 5, argv);
  if (instance == NULL || !address_of(env, argv[1], argv[2], &listening.destination) ||
      !wholes(env, argv + 3, 1, UINT32_MAX, &connections_max)) {
    return NULL;
  }
  if (napi_get_value_int32(env, argv[0], &fd) != napi_ok) return wrong(env, "not a descriptor"), NULL;
  if (napi_get_value_bool(env, argv[4], &listening.is_near) != napi_ok) return wrong(env, "not a boolean"), NULL;
  listening.connections_max = (uint32_t)connections_max;
  listening.fd = fcntl(fd, F_DUPFD_CLOEXEC, 0);
  if (listening.fd < 0) return number(env, -errno);
  int listener = pump_listen(instance->pump, &listening);
  if (listener < 0) close(listening.fd);
  return number(env, listener < 0 ? -ENOSPC : listener);
}

/* pumpStopListening(listener) */
static napi_value stop_listening(napi_env env, napi_callback_info info) {
  napi_value argv[1];
  int32_t listener;
  struct instance *instance = called(env, info, 1, argv);
  if (instance != NULL && listener_of(env, argv[0], &listener)) pump_stop_listening(instance->pump, listener);
  return NULL;
}

/* pumpDialOptions(mark, userTimeoutMs, keepaliveSeconds) */
static napi_value dial_options(napi_env env, napi_callback_info info) {
  napi_value argv[3];
  uint64_t numbers[3];
  struct instance *instance = called(env, info, 3, argv);
  if (instance == NULL || !wholes(env, argv, 3, UINT32_MAX, numbers)) return NULL;
  struct pump_dial_options options = {
    .mark = (uint32_t)numbers[0], .user_timeout_ms = (uint32_t)numbers[1], .keepalive_s = (uint32_t)numbers[2]};
  pump_set_dial_options(instance->pump, &options);
  return NULL;
}

/* pumpTakeRoute(id, upstreamHost, upstreamPort, idleMs, halfClosedMs, connectMs, tag, goodMs, isNear): 0, or minus errno
   when it is not asked about. */
static napi_value take_route(napi_env env, napi_callback_info info) {
  napi_value argv[9];
  uint32_t id;
  uint64_t ms[3], numbers[2];
  struct pump_route route;
  struct instance *instance = called(env, info, 9, argv);
  if (instance == NULL || !id_of(env, instance->pump, argv[0], &id) ||
      !address_of(env, argv[1], argv[2], &route.upstream) || !wholes(env, argv + 3, 3, MS_MAX, ms) ||
      !wholes(env, argv + 6, 2, UINT32_MAX, numbers)) {
    return NULL;
  }
  if (route.upstream.family == 0) return wrong(env, "not an IP address"), NULL;
  if (napi_get_value_bool(env, argv[8], &route.is_near) != napi_ok) return wrong(env, "not a boolean"), NULL;
  route.idle_ms = ms[0];
  route.half_closed_ms = ms[1];
  route.connect_ms = ms[2];
  route.tag = (uint32_t)numbers[0];
  route.good_ms = (uint32_t)numbers[1];
  return number(env, pump_take_route(instance->pump, id, &route));
}

/* pumpRelease(id): the descriptor of an accepted connection, which is the caller's now; or minus errno when it is not
   asked about. */
static napi_value release(napi_env env, napi_callback_info info) {
  napi_value argv[1];
  uint32_t id;
  struct instance *instance = called(env, info, 1, argv);
  if (instance == NULL || !id_of(env, instance->pump, argv[0], &id)) return NULL;
  return number(env, pump_release(instance->pump, id));
}

/* pumpLeft(listener): a connection that was released is over. */
static napi_value left(napi_env env, napi_callback_info info) {
  napi_value argv[1];
  int32_t listener;
  struct instance *instance = called(env, info, 1, argv);
  if (instance != NULL && listener_of(env, argv[0], &listener)) pump_left(instance->pump, listener);
  return NULL;
}

/* pumpForgetRoutes() */
static napi_value forget_routes(napi_env env, napi_callback_info info) {
  struct instance *instance = called(env, info, 0, NULL);
  if (instance != NULL) pump_forget_routes(instance->pump);
  return NULL;
}

void pump_exports(napi_env env, napi_value exports) {
  add_function(env, exports, "pumpStart", start);
  add_function(env, exports, "pumpAdd", add);
  add_function(env, exports, "pumpTakeEnded", take_ended);
  add_function(env, exports, "pumpListen", listen_on);
  add_function(env, exports, "pumpStopListening", stop_listening);
  add_function(env, exports, "pumpDialOptions", dial_options);
  add_function(env, exports, "pumpTakeAccepted", take_accepted);
  add_function(env, exports, "pumpTakeRoute", take_route);
  add_function(env, exports, "pumpRelease", release);
  add_function(env, exports, "pumpLeft", left);
  add_function(env, exports, "pumpForgetRoutes", forget_routes);
  add_function(env, exports, "pumpList", list);
  add_function(env, exports, "pumpCount", count_bytes);
  add_function(env, exports, "pumpTotal", total);
  add_function(env, exports, "pumpClose", tell_close);
  add_function(env, exports, "pumpHold", hold_process);
}
