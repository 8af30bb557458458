/* The environment of a sandbox's process 1, from which all commands inherit. Pure. */
#pragma once

#include "common/error.h"
#include "local/bwrap_args.h"

#include <jansson.h>

struct sandbox_env {
    struct env_entry *items;
    size_t count;
};
/* The basics (PATH, HOME, USER, LOGNAME, SHELL, LANG, AGENTTIER_SANDBOX), then `list` (resolved spec.env, may
 * be NULL) over them. Nothing of this process's environment. False with err: an entry takes its value from
 * elsewhere (valueFrom) and is not optional, or has an impossible name. */
bool sandbox_env_make(const json_t *list, const char *sandbox, const char *namespace, const char *uid,
                      const char *shell, struct sandbox_env *out, struct error *err);
void sandbox_env_free(struct sandbox_env *env);
