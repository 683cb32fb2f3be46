/*
 * Bytes out of Buffers into a socket, at once: a writev and nothing around it. What the system does not take is the
 * caller's, so nothing here keeps a Buffer, waits or allocates.
 */
#define _GNU_SOURCE
#include "addon.h"
#include <errno.h>
#include <sys/socket.h>
#include <sys/uio.h>

enum { FLAGS = MSG_DONTWAIT | MSG_NOSIGNAL };

/* send(fd, first, firstBytes, second): how many bytes the system took of both, or minus errno. `second` may be missing. */
static napi_value send_both(napi_env env, napi_callback_info info) {
  napi_value argv[4];
  size_t argc = 4;
  int32_t fd, length;
  void *data;
  size_t size;
  if (napi_get_cb_info(env, info, &argc, argv, NULL, NULL) != napi_ok || argc < 3 ||
      napi_get_value_int32(env, argv[0], &fd) != napi_ok ||
      napi_get_buffer_info(env, argv[1], &data, &size) != napi_ok ||
      napi_get_value_int32(env, argv[2], &length) != napi_ok || length < 0 || (size_t)length > size) {
    napi_throw_type_error(env, NULL, "send(fd, first, firstBytes, second)");
    return NULL;
  }
  struct iovec parts[2] = {{.iov_base = data, .iov_len = (size_t)length}};
  size_t count = 1;
  if (argc > 3 && napi_get_buffer_info(env, argv[3], &parts[1].iov_base, &parts[1].iov_len) == napi_ok) count = 2;
  struct iovec *only = count == 1 ? &parts[0] : length == 0 ? &parts[1] : NULL;
  struct msghdr both = {.msg_iov = parts, .msg_iovlen = 2};
  ssize_t sent;
  do {
    sent = only != NULL ? send(fd, only->iov_base, only->iov_len, FLAGS) : sendmsg(fd, &both, FLAGS);
  } while (sent < 0 && errno == EINTR);
  return number(env, sent < 0 ? -errno : sent);
}

void send_exports(napi_env env, napi_value exports) {
  add_function(env, exports, "send", send_both);
}
