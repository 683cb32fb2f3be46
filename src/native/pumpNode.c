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
#include <unistd.h>

struct instance {
  struct pump *pump;
  napi_threadsafe_function ended;
};

/*
 * What is said of a connection in a Float64Array: id, listener, open, tag, the peer's port, the destination's, age in
 * ms; and of one that ended, how long it lasted in place of open, and then: end, error, sent, received. The hosts go into an array beside it, two a connection.
 */
enum { ROW = 11, ROWS_MAX = 256 };

static struct instance *instance_of(napi_env env) {
  void *instance = NULL;
  napi_get_instance_data(env, &instance);
  if (instance == NULL) napi_throw_error(env, NULL, "pumpStart first");
  return instance;
}

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
  size_t argc = 2;
  uint32_t pipes_max;
  void *before = NULL;
  napi_get_cb_info(env, info, &argc, argv, NULL, NULL);
  napi_get_instance_data(env, &before);
  if (before != NULL) return number(env, -EALREADY);
  if (napi_get_value_uint32(env, argv[0], &pipes_max) != napi_ok) return number(env, -EINVAL);

  struct instance *instance = calloc(1, sizeof *instance);
  if (instance == NULL) return number(env, -ENOMEM);
  napi_create_string_latin1(env, "sluice pump", NAPI_AUTO_LENGTH, &name);
  if (napi_create_threadsafe_function(env, argv[1], NULL, name, 0, 1, NULL, NULL, NULL, NULL, &instance->ended) !=
      napi_ok) {
    free(instance);
    return number(env, -EINVAL);
  }
  napi_unref_threadsafe_function(env, instance->ended); /* only open connections keep the process: pumpHold */
  instance->pump = pump_start(pipes_max, on_ended, instance);
  if (instance->pump == NULL) {
    int error = errno;
    napi_release_threadsafe_function(instance->ended, napi_tsfn_abort);
    free(instance);
    return number(env, -error);
  }
  napi_set_instance_data(env, instance, free_instance, NULL);
  napi_add_env_cleanup_hook(env, on_cleanup, instance);
  return number(env, 0);
}

static struct pump_bytes bytes_of(napi_env env, napi_value value) {
  struct pump_bytes bytes = {NULL, 0};
  bool is_buffer = false;
  napi_is_buffer(env, value, &is_buffer);
  void *data = NULL;
  if (is_buffer && napi_get_buffer_info(env, value, &data, &bytes.length) == napi_ok) bytes.data = data;
  return bytes;
}

/*
 * pumpAdd(clientFd, upstreamFd, toClient, toUpstream, idleMs, halfClosedMs): the id, or minus errno.
 * The pump gets duplicates: Node's own descriptors stay Node's to close, and closing them ends nothing.
 */
static napi_value add(napi_env env, napi_callback_info info) {
  napi_value argv[6];
  size_t argc = 6;
  int32_t fd[2];
  double idle_ms, half_closed_ms;
  struct instance *instance = instance_of(env);
  if (instance == NULL) return NULL;
  napi_get_cb_info(env, info, &argc, argv, NULL, NULL);
  if (napi_get_value_int32(env, argv[0], &fd[0]) != napi_ok || napi_get_value_int32(env, argv[1], &fd[1]) != napi_ok ||
      napi_get_value_double(env, argv[4], &idle_ms) != napi_ok ||
      napi_get_value_double(env, argv[5], &half_closed_ms) != napi_ok) {
    return number(env, -EINVAL);
  }

  struct pump_connection connection = {
    .to_client = bytes_of(env, argv[2]),
    .to_upstream = bytes_of(env, argv[3]),
    .idle_ms = (uint64_t)idle_ms,
    .half_closed_ms = (uint64_t)half_closed_ms,
  };
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

/* The Float64Array that is the last argument, if it has room for `count` numbers. */
static double *room_for(napi_env env, napi_value value, size_t count) {
  napi_typedarray_type type;
  size_t length;
  void *data;
  if (napi_get_typedarray_info(env, value, &type, &length, &data, NULL, NULL) == napi_ok &&
      type == napi_float64_array && length >= count) {
    return data;
  }
  napi_throw_type_error(env, NULL, "the Float64Array is too small");
  return NULL;
}

static napi_value host_of(napi_env env, const struct pump_address *address) {
  char text[INET6_ADDRSTRLEN];
  napi_value value = NULL;
  const char *host = "";
  if (address->family == 4) host = inet_ntop(AF_INET, address->ip + 12, text, sizeof text);
  if (address->family == 6) host = inet_ntop(AF_INET6, address->ip, text, sizeof text);
  napi_create_string_latin1(env, host, NAPI_AUTO_LENGTH, &value);
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
  size_t argc = 2;
  struct instance *instance = instance_of(env);
  if (instance == NULL) return NULL;
  napi_get_cb_info(env, info, &argc, argv, NULL, NULL);
  double *row = room_for(env, argv[0], ROW * ROWS_MAX);
  if (row == NULL) return NULL;
  napi_valuetype hosts;
  napi_typeof(env, argv[1], &hosts);
  struct pump_ended ended[ROWS_MAX];
  size_t count = pump_take_ended(instance->pump, ended, ROWS_MAX);
  for (size_t i = 0; i < count; i++, row += ROW) {
    row[0] = ended[i].id;
    row[1] = ended[i].accepted.listener;
    row[3] = ended[i].accepted.tag;
    if (ended[i].accepted.tag != 0 && hosts == napi_object) write_row(env, row, argv[1], (uint32_t)i, &ended[i].accepted);
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
  size_t argc = 2;
  struct instance *instance = instance_of(env);
  if (instance == NULL) return NULL;
  napi_get_cb_info(env, info, &argc, argv, NULL, NULL);
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
  size_t argc = 3;
  uint32_t from;
  struct instance *instance = instance_of(env);
  if (instance == NULL) return NULL;
  napi_get_cb_info(env, info, &argc, argv, NULL, NULL);
  double *row = room_for(env, argv[1], ROW * ROWS_MAX);
  if (row == NULL || napi_get_value_uint32(env, argv[0], &from) != napi_ok) return NULL;
  struct pump_accepted open[ROWS_MAX - 1];
  size_t count = pump_list(instance->pump, &from, open, ROWS_MAX - 1);
  for (size_t i = 0; i < count; i++) write_row(env, row + i * ROW, argv[2], (uint32_t)i, &open[i]);
  row[count * ROW] = from;
  return number(env, (int64_t)count);
}

static struct pump_address address_of(napi_env env, napi_value host, napi_value port) {
  struct pump_address address = {.family = 0};
  char text[INET6_ADDRSTRLEN] = "";
  uint32_t number = 0;
  napi_get_value_string_latin1(env, host, text, sizeof text, NULL);
  napi_get_value_uint32(env, port, &number);
  address.port = (uint16_t)number;
  if (inet_pton(AF_INET, text, address.ip + 12) == 1) {
    address.ip[10] = address.ip[11] = 0xff;
    address.family = 4;
  } else if (inet_pton(AF_INET6, text, address.ip) == 1) {
    address.family = 6;
  }
  return address;
}

static double double_of(napi_env env, napi_value value) {
  double result = 0;
  napi_get_value_double(env, value, &result);
  return result;
}

/* pumpListen(fd, destinationHost, destinationPort, connectionsMax): a number for it, or minus errno. The host is '' to
   ask the kernel. The pump gets a duplicate of the descriptor. */
static napi_value listen_on(napi_env env, napi_callback_info info) {
  napi_value argv[4];
  size_t argc = 4;
  int32_t fd;
  struct instance *instance = instance_of(env);
  if (instance == NULL) return NULL;
  napi_get_cb_info(env, info, &argc, argv, NULL, NULL);
  if (napi_get_value_int32(env, argv[0], &fd) != napi_ok) return number(env, -EINVAL);
  struct pump_listening listening = {
    .fd = fcntl(fd, F_DUPFD_CLOEXEC, 0),
    .destination = address_of(env, argv[1], argv[2]),
    .connections_max = (uint32_t)double_of(env, argv[3]),
  };
  if (listening.fd < 0) return number(env, -errno);
  int listener = pump_listen(instance->pump, &listening);
  if (listener < 0) close(listening.fd);
  return number(env, listener < 0 ? -ENOSPC : listener);
}

/* pumpStopListening(listener) */
static napi_value stop_listening(napi_env env, napi_callback_info info) {
  int32_t listener;
  struct instance *instance = instance_of(env);
  if (instance == NULL || !integers(env, info, 1, &listener)) return NULL;
  pump_stop_listening(instance->pump, listener);
  return NULL;
}

/* pumpDialOptions(mark, userTimeoutMs, keepaliveSeconds) */
static napi_value dial_options(napi_env env, napi_callback_info info) {
  napi_value argv[3];
  size_t argc = 3;
  struct instance *instance = instance_of(env);
  if (instance == NULL) return NULL;
  napi_get_cb_info(env, info, &argc, argv, NULL, NULL);
  struct pump_dial_options options = {
    .mark = (uint32_t)double_of(env, argv[0]),
    .user_timeout_ms = (uint32_t)double_of(env, argv[1]),
    .keepalive_s = (uint32_t)double_of(env, argv[2]),
  };
  pump_set_dial_options(instance->pump, &options);
  return NULL;
}

/* pumpTakeRoute(id, upstreamHost, upstreamPort, idleMs, halfClosedMs, connectMs, tag, goodMs) */
static napi_value take_route(napi_env env, napi_callback_info info) {
  napi_value argv[8];
  size_t argc = 8;
  uint32_t id;
  struct instance *instance = instance_of(env);
  if (instance == NULL) return NULL;
  napi_get_cb_info(env, info, &argc, argv, NULL, NULL);
  if (napi_get_value_uint32(env, argv[0], &id) != napi_ok) return NULL;
  struct pump_route route = {
    .upstream = address_of(env, argv[1], argv[2]),
    .idle_ms = (uint64_t)double_of(env, argv[3]),
    .half_closed_ms = (uint64_t)double_of(env, argv[4]),
    .connect_ms = (uint64_t)double_of(env, argv[5]),
    .tag = (uint32_t)double_of(env, argv[6]),
    .good_ms = (uint32_t)double_of(env, argv[7]),
  };
  pump_take_route(instance->pump, id, &route);
  return NULL;
}

/* pumpRelease(id): the descriptor of an accepted connection, which is the caller's now. */
static napi_value release(napi_env env, napi_callback_info info) {
  int32_t id;
  struct instance *instance = instance_of(env);
  if (instance == NULL || !integers(env, info, 1, &id)) return NULL;
  return number(env, pump_release(instance->pump, (uint32_t)id));
}

/* pumpLeft(listener): a connection that was released is over. */
static napi_value left(napi_env env, napi_callback_info info) {
  int32_t listener;
  struct instance *instance = instance_of(env);
  if (instance == NULL || !integers(env, info, 1, &listener)) return NULL;
  pump_left(instance->pump, listener);
  return NULL;
}

/* pumpForgetRoutes() */
static napi_value forget_routes(napi_env env, napi_callback_info info) {
  (void)info;
  struct instance *instance = instance_of(env);
  if (instance != NULL) pump_forget_routes(instance->pump);
  return NULL;
}

/* pumpCount(id, [sent, received]): writes the bytes so far. The id must be one that pumpTakeEnded has not given. */
static napi_value count_bytes(napi_env env, napi_callback_info info) {
  napi_value argv[2];
  size_t argc = 2;
  uint32_t id;
  struct instance *instance = instance_of(env);
  if (instance == NULL) return NULL;
  napi_get_cb_info(env, info, &argc, argv, NULL, NULL);
  double *counts = room_for(env, argv[1], 2);
  if (counts == NULL || napi_get_value_uint32(env, argv[0], &id) != napi_ok) return NULL;
  uint64_t sent, received;
  pump_count(instance->pump, id, &sent, &received);
  counts[0] = (double)sent;
  counts[1] = (double)received;
  return NULL;
}

/* pumpTotal(listener, [open, sent, received]): writes the sums over its connections on routes. */
static napi_value total(napi_env env, napi_callback_info info) {
  napi_value argv[2];
  size_t argc = 2;
  int32_t listener;
  struct instance *instance = instance_of(env);
  if (instance == NULL) return NULL;
  napi_get_cb_info(env, info, &argc, argv, NULL, NULL);
  double *sums = room_for(env, argv[1], 3);
  if (sums == NULL || napi_get_value_int32(env, argv[0], &listener) != napi_ok) return NULL;
  struct pump_totals totals = pump_total(instance->pump, listener);
  sums[0] = totals.open;
  sums[1] = (double)totals.sent;
  sums[2] = (double)totals.received;
  return NULL;
}

/* pumpClose(id): ends a connection that pumpTakeEnded has not given yet. */
static napi_value tell_close(napi_env env, napi_callback_info info) {
  int32_t id;
  struct instance *instance = instance_of(env);
  if (instance == NULL || !integers(env, info, 1, &id)) return NULL;
  pump_tell_close(instance->pump, (uint32_t)id);
  return NULL;
}

/* pumpHold(hold): whether the pump keeps the process alive, as open sockets do. */
static napi_value hold_process(napi_env env, napi_callback_info info) {
  napi_value argv[1];
  size_t argc = 1;
  bool hold = false;
  struct instance *instance = instance_of(env);
  if (instance == NULL) return NULL;
  napi_get_cb_info(env, info, &argc, argv, NULL, NULL);
  napi_get_value_bool(env, argv[0], &hold);
  if (hold) napi_ref_threadsafe_function(env, instance->ended);
  else napi_unref_threadsafe_function(env, instance->ended);
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
