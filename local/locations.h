/* Where running sandboxes listen: a table from an object's uid to a socket path that event loops read and
 * the engine writes. Thread-safe; a lookup holds a read lock for one search. */
#pragma once

#include <stdbool.h>
#include <stddef.h>

struct locations;
struct locations *locations_new(void);
void locations_free(struct locations *l);
void locations_put(struct locations *l, const char *uid, const char *socket_path);
void locations_remove(struct locations *l, const char *uid);
/* False when there is none or it does not fit. */
bool locations_get(struct locations *l, const char *uid, char *out, size_t size);
