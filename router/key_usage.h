/* Writes down when API keys were last used (W-54): at most hourly for each key, on a thread of its own,
 * so that no request waits for it and no flood of requests becomes a flood of writes. */
#pragma once

#include "backend/store.h"

#define KEY_USAGE_SECONDS 3600

struct key_usage;
struct key_usage *key_usage_new(struct store *store, const char *namespace);
void key_usage_free(struct key_usage *usage);
/* The key of this hash (64 digits) was used now. False: too many wait, try again at its next use. Never
 * blocks for long. */
bool key_usage_note(struct key_usage *usage, const char *hash);
