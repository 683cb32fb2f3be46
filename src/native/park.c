/*
 * Connections that wait without a socket: descriptors in an epoll of their own, which the loop of Node looks at as one.
 * Everything here runs on the thread of that loop. A parked descriptor is owned here; it is the caller's again when it
 * was given to `woken` or came back from unpark.
 */
#define _GNU_SOURCE
#include "addon.h"
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>
#include <uv.h>

enum { WOKEN_MAX = 256 /* in one turn of the loop: the others come with the next */, FIRST_PLACES = 256 };

struct lot {
  uv_poll_t poll;
  int epoll;
  napi_env env;
  napi_ref woken;
  napi_async_context context;
  napi_async_cleanup_hook_handle cleanup;
  bool *is_parked; /* by descriptor */
  size_t places;
  size_t parked;
};

static bool holds(const struct lot *lot, int fd) {
  return fd >= 0 && (size_t)fd < lot->places && lot->is_parked[fd];
}

/* Room to note that `fd` is parked. */
static bool has_place(struct lot *lot, int fd) {
  size_t places = lot->places > 0 ? lot->places : FIRST_PLACES;
  while (places <= (size_t)fd) places *= 2;
  if (places == lot->places) return true;
  bool *grown = realloc(lot->is_parked, places * sizeof *grown);
  if (grown == NULL) return false;
  memset(grown + lot->places, 0, (places - lot->places) * sizeof *grown);
  lot->is_parked = grown;
  lot->places = places;
  return true;
}

static void take_out(struct lot *lot, int fd) {
  epoll_ctl(lot->epoll, EPOLL_CTL_DEL, fd, NULL);
  lot->is_parked[fd] = false;
  /* As sockets do, what is parked keeps the process. */
  if (--lot->parked == 0) uv_unref((uv_handle_t *)&lot->poll);
}

/* Gives one descriptor back to JavaScript, as its own call into it. */
static void call_woken(struct lot *lot, int fd) {
  napi_handle_scope scope;
  napi_value woken, global, error;
  if (napi_open_handle_scope(lot->env, &scope) != napi_ok) return;
  napi_get_reference_value(lot->env, lot->woken, &woken);
  napi_get_global(lot->env, &global);
  napi_value argument = number(lot->env, fd);
  napi_status status = napi_make_callback(lot->env, lot->context, global, woken, 1, &argument, NULL);
  if (status == napi_pending_exception && napi_get_and_clear_last_exception(lot->env, &error) == napi_ok) {
    napi_fatal_exception(lot->env, error);
  }
  napi_close_handle_scope(lot->env, scope);
}

/* One at a time, because whoever is woken may unpark others. */
static void on_readable(uv_poll_t *poll, int status, int events) {
  struct lot *lot = poll->data;
  (void)status;
  (void)events;
  struct epoll_event event;
  for (int i = 0; i < WOKEN_MAX && epoll_wait(lot->epoll, &event, 1, 0) == 1; i++) {
    take_out(lot, event.data.fd);
    call_woken(lot, event.data.fd);
  }
}

static void on_closed(uv_handle_t *handle) {
  struct lot *lot = handle->data;
  napi_remove_async_cleanup_hook(lot->cleanup);
  free(lot);
}

/* The thread ends, and its connections with it. */
static void on_cleanup(napi_async_cleanup_hook_handle cleanup, void *data) {
  struct lot *lot = data;
  (void)cleanup;
  for (size_t fd = 0; fd < lot->places; fd++) {
    if (lot->is_parked[fd]) close((int)fd);
  }
  free(lot->is_parked);
  lot->is_parked = NULL;
  lot->places = 0;
  uv_poll_stop(&lot->poll);
  close(lot->epoll);
  uv_close((uv_handle_t *)&lot->poll, on_closed);
}

static napi_value make(napi_env env, struct lot *lot, napi_value woken) {
  struct uv_loop_s *loop;
  napi_value name, result;
  napi_create_string_latin1(env, "sluice park", NAPI_AUTO_LENGTH, &name);
  if (napi_get_uv_event_loop(env, &loop) != napi_ok || uv_poll_init(loop, &lot->poll, lot->epoll) != 0) return NULL;
  /* From here on the loop has it: only closing it gives it back. */
  lot->poll.data = lot;
  uv_poll_start(&lot->poll, UV_READABLE, on_readable);
  uv_unref((uv_handle_t *)&lot->poll);
  napi_create_reference(env, woken, 1, &lot->woken);
  napi_async_init(env, NULL, name, &lot->context);
  napi_add_async_cleanup_hook(env, on_cleanup, lot, &lot->cleanup);
  napi_create_external(env, lot, NULL, NULL, &result);
  return result;
}

/* parkOpen(woken): a lot to park in, or minus errno. `woken(fd)` is called with each that can be read, or that ended. */
static napi_value park_open(napi_env env, napi_callback_info info) {
  napi_value woken;
  size_t argc = 1;
  napi_get_cb_info(env, info, &argc, &woken, NULL, NULL);
  struct lot *lot = calloc(1, sizeof *lot);
  if (lot == NULL) return number(env, -ENOMEM);
  lot->env = env;
  lot->epoll = epoll_create1(EPOLL_CLOEXEC);
  if (lot->epoll < 0) {
    free(lot);
    return number(env, -errno);
  }
  napi_value result = make(env, lot, woken);
  if (result != NULL) return result;
  close(lot->epoll);
  free(lot);
  return number(env, -ENOSYS);
}

static struct lot *lot_and_fd(napi_env env, napi_callback_info info, int32_t *fd) {
  napi_value argv[2];
  size_t argc = 2;
  void *lot = NULL;
  if (napi_get_cb_info(env, info, &argc, argv, NULL, NULL) == napi_ok && argc == 2 &&
      napi_get_value_external(env, argv[0], &lot) == napi_ok && napi_get_value_int32(env, argv[1], fd) == napi_ok) {
    return lot;
  }
  napi_throw_type_error(env, NULL, "(lot, fd)");
  return NULL;
}

/* park(lot, fd): the descriptor it has now, a duplicate, because closing `fd` is its owner's; or minus errno. */
static napi_value park(napi_env env, napi_callback_info info) {
  int32_t fd;
  struct lot *lot = lot_and_fd(env, info, &fd);
  if (lot == NULL) return NULL;
  int own = fcntl(fd, F_DUPFD_CLOEXEC, 0);
  if (own < 0) return number(env, -errno);
  struct epoll_event event = {.events = EPOLLIN | EPOLLRDHUP, .data.fd = own};
  if (!has_place(lot, own) || epoll_ctl(lot->epoll, EPOLL_CTL_ADD, own, &event) != 0) {
    int error = errno;
    close(own);
    return number(env, -error);
  }
  lot->is_parked[own] = true;
  if (lot->parked++ == 0) uv_ref((uv_handle_t *)&lot->poll);
  return number(env, own);
}

/* unpark(lot, fd): whether it was parked; it is the caller's then. */
static napi_value unpark(napi_env env, napi_callback_info info) {
  int32_t fd;
  struct lot *lot = lot_and_fd(env, info, &fd);
  if (lot == NULL) return NULL;
  bool found = holds(lot, fd);
  if (found) take_out(lot, fd);
  napi_value result;
  napi_get_boolean(env, found, &result);
  return result;
}

void park_exports(napi_env env, napi_value exports) {
  add_function(env, exports, "parkOpen", park_open);
  add_function(env, exports, "park", park);
  add_function(env, exports, "unpark", unpark);
}
