/*
 * The socket calls Node does not offer: where a redirected connection was going, and four socket options.
 *
 * Every function takes plain numbers and answers a number: the value, or minus errno. shim.ts gives them names and
 * turns minus errno into an Error with a code. Nothing here allocates, keeps state or blocks.
 */
#define _GNU_SOURCE
#include "addon.h"
#include <arpa/inet.h>
#include <errno.h>
#ifdef __GLIBC__
#include <malloc.h>
#endif
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <string.h>
#include <sys/socket.h>

enum { ORIGINAL_DST = 80 }; /* SO_ORIGINAL_DST and IP6T_SO_ORIGINAL_DST, from headers that clash with netinet/in.h. */

/* originalDestination(fd, level): [host, port], or minus errno. `level` is SOL_IP or SOL_IPV6. */
static napi_value original_destination(napi_env env, napi_callback_info info) {
  int32_t argv[2];
  if (!integers(env, info, 2, argv)) return NULL;

  struct sockaddr_storage address = {0};
  socklen_t length = sizeof address;
  if (getsockopt(argv[0], argv[1], ORIGINAL_DST, &address, &length) != 0) return number(env, -errno);

  char host[INET6_ADDRSTRLEN];
  uint16_t port;
  if (address.ss_family == AF_INET) {
    struct sockaddr_in in;
    memcpy(&in, &address, sizeof in);
    port = ntohs(in.sin_port);
    if (inet_ntop(AF_INET, &in.sin_addr, host, sizeof host) == NULL) return number(env, -errno);
  } else if (address.ss_family == AF_INET6) {
    struct sockaddr_in6 in6;
    memcpy(&in6, &address, sizeof in6);
    port = ntohs(in6.sin6_port);
    if (inet_ntop(AF_INET6, &in6.sin6_addr, host, sizeof host) == NULL) return number(env, -errno);
  } else {
    return number(env, -EAFNOSUPPORT);
  }

  napi_value pair = NULL, text = NULL;
  napi_create_array_with_length(env, 2, &pair);
  napi_create_string_latin1(env, host, NAPI_AUTO_LENGTH, &text);
  napi_set_element(env, pair, 0, text);
  napi_set_element(env, pair, 1, number(env, port));
  return pair;
}

/* getOption(fd, level, name): the option as an unsigned number (SO_MARK uses all 32 bits), or minus errno. */
static napi_value get_option(napi_env env, napi_callback_info info) {
  int32_t argv[3];
  if (!integers(env, info, 3, argv)) return NULL;
  uint32_t value = 0;
  socklen_t length = sizeof value;
  if (getsockopt(argv[0], argv[1], argv[2], &value, &length) != 0) return number(env, -errno);
  return number(env, value);
}

/* setOption(fd, level, name, value): 0, or minus errno. */
static napi_value set_option(napi_env env, napi_callback_info info) {
  int32_t argv[4];
  if (!integers(env, info, 4, argv)) return NULL;
  return number(env, setsockopt(argv[0], argv[1], argv[2], &argv[3], sizeof argv[3]) == 0 ? 0 : -errno);
}

/* setLinger(fd, seconds): close() waits so long for unsent bytes; 0 resets the connection, -1 is the default again. */
static napi_value set_linger(napi_env env, napi_callback_info info) {
  int32_t argv[2];
  if (!integers(env, info, 2, argv)) return NULL;
  struct linger linger = {.l_onoff = argv[1] >= 0, .l_linger = argv[1] >= 0 ? argv[1] : 0};
  return number(env, setsockopt(argv[0], SOL_SOCKET, SO_LINGER, &linger, sizeof linger) == 0 ? 0 : -errno);
}

/* trimHeap(): gives the system the pages back that malloc has and that nothing is in. */
static napi_value trim_heap(napi_env env, napi_callback_info info) {
  (void)info;
#ifdef __GLIBC__
  return number(env, malloc_trim(0));
#else
  return number(env, 0); /* musl does it by itself */
#endif
}

static void add_constant(napi_env env, napi_value exports, const char *name, int32_t value) {
  napi_set_named_property(env, exports, name, number(env, value));
}

void shim_exports(napi_env env, napi_value exports) {
  add_function(env, exports, "originalDestination", original_destination);
  add_function(env, exports, "getOption", get_option);
  add_function(env, exports, "setOption", set_option);
  add_function(env, exports, "setLinger", set_linger);
  add_function(env, exports, "trimHeap", trim_heap);

  add_constant(env, exports, "SOL_SOCKET", SOL_SOCKET);
  add_constant(env, exports, "SO_MARK", SO_MARK);
  add_constant(env, exports, "SO_KEEPALIVE", SO_KEEPALIVE);
  add_constant(env, exports, "IPPROTO_IP", IPPROTO_IP);
  add_constant(env, exports, "IP_TRANSPARENT", IP_TRANSPARENT);
  add_constant(env, exports, "IPPROTO_IPV6", IPPROTO_IPV6);
  add_constant(env, exports, "IPV6_TRANSPARENT", IPV6_TRANSPARENT);
  add_constant(env, exports, "IPPROTO_TCP", IPPROTO_TCP);
  add_constant(env, exports, "TCP_NODELAY", TCP_NODELAY);
  add_constant(env, exports, "TCP_USER_TIMEOUT", TCP_USER_TIMEOUT);
  add_constant(env, exports, "TCP_KEEPIDLE", TCP_KEEPIDLE);
  add_constant(env, exports, "TCP_KEEPINTVL", TCP_KEEPINTVL);
  add_constant(env, exports, "TCP_KEEPCNT", TCP_KEEPCNT);
}
