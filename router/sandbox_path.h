/* Paths inside a sandbox as clients name them (http-api.md 2.9). Pure. */
#pragma once

#include "common/bytes.h"
#include "common/error.h"

#define SANDBOX_PATH_MAX 4096
#define WORKSPACE        "/workspace"

/* Makes `raw` (decoded already) absolute and resolves empty segments, "." and ".." without
 * ever leaving "/". Appends to `out` (empty before). 400 bad_path: too long, not UTF-8.
 * No shell is ever involved, so every other character is fine (W-49). */
bool sandbox_path_clean(const char *raw, struct buffer *out, struct error *err);

/* Whether a cleaned path is the workspace or below it. */
bool sandbox_path_in_workspace(const char *path);

/* The last segment, "" for "/". Points into `path`. */
const char *sandbox_path_base(const char *path);

/* Appends `name` reduced to [A-Za-z0-9._-], or `fallback` when nothing is left. */
void sandbox_path_safe_name(const char *name, const char *fallback, struct buffer *out);
