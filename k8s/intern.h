/* Sharing of equal texts: of a thousand sandboxes most say "Running", the same template and the same times.
 * Halves what objects take in memory. */
#pragma once

#include <jansson.h>
#include <pthread.h>

#define INTERN_SLOTS    4096
#define INTERN_MAX_TEXT 64 /* longer ones are rarely equal */

/* The texts that were seen last: what is seen often is found again, what is not makes room. Bounded. */
struct intern {
    pthread_mutex_t lock;
    json_t *slots[INTERN_SLOTS];
};

void intern_init(struct intern *t);
void intern_free(struct intern *t);
/* Replaces texts in a tree that nobody else has yet by equal ones that were seen before. Thread-safe. */
void intern_tree(struct intern *t, json_t *tree);
