/* What the files of the addon share: its parts add their functions to the exports. */
#ifndef SLUICE_ADDON_H
#define SLUICE_ADDON_H

#define NAPI_VERSION 8
#include <node_api.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

void shim_exports(napi_env env, napi_value exports);
void send_exports(napi_env env, napi_value exports);
void pump_exports(napi_env env, napi_value exports);
void park_exports(napi_env env, napi_value exports);

enum { ARGUMENTS_MAX = 9 };

/* Reads `count` arguments, of which there must be as many; false, with a TypeError thrown, when there are fewer. */
bool arguments(napi_env env, napi_callback_info info, size_t count, napi_value *out);

/* Reads `count` integers from the arguments; false, with a TypeError thrown, when there are fewer or other things. */
bool integers(napi_env env, napi_callback_info info, size_t count, int32_t *out);

napi_value number(napi_env env, int64_t value);
void add_function(napi_env env, napi_value exports, const char *name, napi_callback run);

#endif
