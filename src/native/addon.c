/* build/sluice.node: what Node loads. */
#include "addon.h"

bool arguments(napi_env env, napi_callback_info info, size_t count, napi_value *out) {
  size_t given = count;
  if (napi_get_cb_info(env, info, &given, out, NULL, NULL) == napi_ok && given >= count) return true;
  napi_throw_type_error(env, NULL, "too few arguments");
  return false;
}

bool integers(napi_env env, napi_callback_info info, size_t count, int32_t *out) {
  napi_value argv[ARGUMENTS_MAX];
  if (!arguments(env, info, count, argv)) return false;
  for (size_t i = 0; i < count; i++) {
    if (napi_get_value_int32(env, argv[i], &out[i]) != napi_ok) {
      napi_throw_type_error(env, NULL, "not a number");
      return false;
    }
  }
  return true;
}

napi_value number(napi_env env, int64_t value) {
  napi_value result = NULL;
  napi_create_int64(env, value, &result);
  return result;
}

void add_function(napi_env env, napi_value exports, const char *name, napi_callback run) {
  napi_value function;
  if (napi_create_function(env, name, NAPI_AUTO_LENGTH, run, NULL, &function) == napi_ok &&
      napi_set_named_property(env, exports, name, function) == napi_ok) {
    return;
  }
  napi_throw_error(env, NULL, name); /* loading fails, unless an exception is there already that says more */
}

NAPI_MODULE_INIT() {
  shim_exports(env, exports);
  send_exports(env, exports);
  pump_exports(env, exports);
  park_exports(env, exports);
  return exports;
}
