/*
 * The pump's face towards Node: one pump a JavaScript thread, started by pumpStart and stopped with the thread.
 *
 * Numbers below zero are minus errno, as everywhere in the addon. pump.ts is the only caller.
 */
#define _GNU_SOURCE
#include "addon.h"
#include "pump.h"
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

struct instance {
  struct pump *pump;
  napi_threadsafe_function ended;
};

enum { ROW = 5, ROWS_MAX = 256 }; /* what pumpTakeEnded writes for each connection: id, end, error, sent, received */

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

/* pumpTakeEnded(rows): how many rows of the Float64Array were filled; 0 when there are no more. */
static napi_value take_ended(napi_env env, napi_callback_info info) {
  napi_value argv[1];
  size_t argc = 1;
  struct instance *instance = instance_of(env);
  if (instance == NULL) return NULL;
  napi_get_cb_info(env, info, &argc, argv, NULL, NULL);
  double *row = room_for(env, argv[0], ROW * ROWS_MAX);
  if (row == NULL) return NULL;
  struct pump_ended ended[ROWS_MAX];
  size_t count = pump_take_ended(instance->pump, ended, ROWS_MAX);
  for (size_t i = 0; i < count; i++) {
    *row++ = ended[i].id;
    *row++ = ended[i].end;
    *row++ = ended[i].error;
    *row++ = (double)ended[i].sent;
    *row++ = (double)ended[i].received;
  }
  return number(env, (int64_t)count);
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
  add_function(env, exports, "pumpCount", count_bytes);
  add_function(env, exports, "pumpClose", tell_close);
  add_function(env, exports, "pumpHold", hold_process);
}
